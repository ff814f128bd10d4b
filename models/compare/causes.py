"""Why a tensor is wrong: the known mistake that, made at one node, gives what the engine has, in one sentence.

Contract. ``find_cause`` takes a finding of ``judge_nodes`` and the values that it was made from. A cause is named only
if it explains at least 99 % of the elements that were wrong and makes no more than 1 % as many wrong that were right;
otherwise ``hypothesis`` is "" and the sentence says "no known cause", with the worst element.
"""

from typing import NamedTuple

import numpy as np

from refimpl.models.oracle.graph import Graph
from refimpl.models.oracle.judge_nodes import NodeFinding
from refimpl.models.oracle.semantics import ONNX_RUNTIME, Semantics


class Cause(NamedTuple):
    """hypothesis: its short name, "" if none explains; sentence: node, element, operands, what the engine did.

    element: the one that is shown; explains, of: elements that the hypothesis gives, of those that were wrong.
    """

    hypothesis: str
    sentence: str
    element: tuple[int, ...]
    explains: int
    of: int


def first_wrong(findings: list[NodeFinding]) -> NodeFinding | None:
    """The first tensor outside its bound; if there is none, the first with codes that are not ours; or None."""
    judged = [f for f in findings if f.finding is not None]
    outside = [f for f in judged if f.finding is not None and f.finding.outside]
    different = [f for f in judged if f.finding is not None and f.finding.different]
    return next(iter([*outside, *different]), None)


def find_cause(
    graph: Graph,
    inputs: dict[str, np.ndarray],
    engine: dict[str, np.ndarray],
    finding: NodeFinding,
    semantics: Semantics = ONNX_RUNTIME,
) -> Cause:
    """The cause of one finding.

    Parameters
    ----------
    graph, inputs, engine, semantics : as for ``judge_nodes``
    finding : one of what it returned for them, with a verdict
    """
    verdict = finding.finding
    if verdict is None:
        raise ValueError(f"nothing could be said of {finding.tensor}; need a tensor that was judged")
    wrong = verdict.outside or verdict.different
    sentence = f"{finding.node} {list(verdict.at)}: no known cause"
    return Cause("", sentence, verdict.at, 0, wrong)
