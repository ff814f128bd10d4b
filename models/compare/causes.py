"""Why a tensor is wrong: the known mistake that, made at one node, gives what the engine has, in one sentence.

Contract. ``find_cause`` takes a finding of ``judge_nodes`` and the values that it was made from. Every mistake of
``HYPOTHESES`` is made at every node between what the engine exposed and the tensor, on the engine's own values. One is
believed only if no more than 1 % as many elements are wrong under it as were wrong before, new ones included: codes
and integers to the bit or within the rounding of their chain, floats within their derived bound. Of several, the one
under which the fewest are wrong, then the least vague, then the first. If none is left the engine may go on from other
tensors than it shows (``compare.fused``). Else ``hypothesis`` is "" and the sentence says so.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from refimpl.models.compare import (
    hypotheses_blocks,
    hypotheses_codes,
    hypotheses_floats,
    hypotheses_operands,
    hypotheses_places,
    hypotheses_sums,
    words,
)
from refimpl.models.compare.chain import Chain, chain_to
from refimpl.models.compare.fits import fits
from refimpl.models.compare.fused import Fused, find_fused
from refimpl.models.compare.hypothesis import Show
from refimpl.models.compare.use import Use
from refimpl.models.exact import Exact
from refimpl.models.oracle.graph import Graph
from refimpl.models.oracle.judge_nodes import NodeFinding
from refimpl.models.oracle.operator import Approx
from refimpl.models.oracle.semantics import ONNX_RUNTIME, Semantics
from refimpl.quant.codes import softmax_as_defined

HYPOTHESES = [
    *hypotheses_sums.HYPOTHESES,
    *hypotheses_operands.HYPOTHESES,
    *hypotheses_codes.HYPOTHESES,
    *hypotheses_floats.HYPOTHESES,
    *hypotheses_places.HYPOTHESES,
    *hypotheses_blocks.HYPOTHESES,
]
TOLERATED = 100
"""One element in so many may stay unexplained."""
NEAREST = 64
"""Nodes that are suspected, if the engine exposed so little that the chain is longer."""
FUSED = "several nodes in one"
SHOWN = 3
"""Tensors that a sentence names."""


class Cause(NamedTuple):
    """hypothesis: its short name, "" if none explains; sentence: node, element, operands, what the engine did.

    element: the one that is shown; explains, of: elements that the hypothesis gives, of those that were wrong.
    """

    hypothesis: str
    sentence: str
    element: tuple[int, ...]
    explains: int
    of: int


class _Trial(NamedTuple):
    """A mistake that explains. use, wrong: what is right, and what is done instead; made: by the node then; exact: what
    the tensor is then judged by; failures: elements that are wrong under it; unlike: codes that are not its own.
    """

    name: str
    use: Use
    wrong: Use
    vague: int
    show: Show | None
    made: Approx
    exact: Exact
    failures: int
    unlike: int


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

    Raises
    ------
    ValueError
        for a finding that says nothing
    """
    semantics = semantics._replace(softmax=softmax_as_defined)  # what ONNX Runtime makes of it is one of the causes
    chain = chain_to(graph, inputs, engine, finding.tensor, semantics)
    with np.errstate(all="ignore"):
        before = chain.wrong(chain.right)
        if not before.any():
            return Cause("", f"{finding.node}: {finding.tensor} is what it should be", (), 0, 0)
        few = int(before.sum()) // TOLERATED
        suspects = (use for use, _ in zip(chain.uses(), range(NEAREST), strict=False))
        accepted = [trial for use in suspects for trial in _trials(chain, use) if trial.failures <= few]
        if not accepted:
            fused = None if chain.strict else find_fused(graph, inputs, engine, finding.tensor, semantics)
            return _in_one(chain, fused, before, finding) if fused else _unknown(chain, before, finding)
        best = min(accepted, key=lambda trial: (trial.failures, trial.vague, trial.unlike))
        return _explained(chain, best, before, [trial for trial in accepted if _rivals(trial, best)])


def _trials(chain: Chain, use: Use) -> Iterator[_Trial]:
    """All mistakes that can be made at a node, and what comes of them."""
    wrongs = [(h.name, h.change(use), h.vague, h.show) for h in HYPOTHESES if use.op in h.ops]
    right = chain.result_of(use)
    for name, wrong, vague, show in [*wrongs, *((*fit, None) for fit in fits(chain, use))]:
        try:
            made, exact = (None, None) if wrong is None else chain.run(wrong)
        except ValueError:  # the node, or one after it, cannot compute with that
            continue
        if wrong is not None and made is not None and exact is not None and not _same(made, right):
            unlike = 0 if exact.ours is None else int((chain.theirs != exact.ours).sum())
            yield _Trial(name, use, wrong, vague, show, made, exact, int(chain.wrong(exact).sum()), unlike)


def _same(made: Approx, right: Approx | None) -> bool:
    """Whether a mistake changes nothing, not even how far the result may be off."""
    return right is not None and all(map(np.array_equal, made, right))


def _rivals(trial: _Trial, best: _Trial) -> bool:
    """Whether it explains as much, as sharply, with other values."""
    as_good = (trial.failures, trial.vague, trial.unlike) == (best.failures, best.vague, best.unlike)
    return as_good and not np.array_equal(trial.exact.value, best.exact.value)


# --- words -----------------------------------------------------------------------------------------------------------


def _explained(chain: Chain, trial: _Trial, before: np.ndarray, rivals: list[_Trial]) -> Cause:
    explained = before & ~chain.wrong(trial.exact)
    at = _largest(np.where(explained, _distance(chain.theirs, _value(chain.right)), -1))
    there, right, seen = at, _value(chain.right), ""
    last = chain.ends_with(trial.use)
    if not last:
        right = np.asarray(chain.result_of(trial.use).value)  # type: ignore[union-attr]
        there = _place(trial.made.value, right, at)
        seen = f", seen in {chain.tensor} {words.index(at)}"
    shown = trial.show and trial.show(trial.use, trial.wrong, there)
    if not shown:
        made = _value(trial.exact) if last else trial.made.value
        shown = _compared(trial, there, right, made, chain.theirs if last else None)
    more = "".join(f"; so does {name}" for name in dict.fromkeys(rival.name for rival in rivals))
    counts = f"explains {int(explained.sum())} of {int(before.sum())} elements"
    sentence = f"{trial.use.call.node.name} {words.index(there)}: {shown}{seen}; {counts}{more}"
    return Cause(trial.name, sentence, at, int(explained.sum()), int(before.sum()))


def _place(made: np.ndarray, right: np.ndarray, at: tuple[int, ...]) -> tuple[int, ...]:
    """An element of a node's result that is wrong: the one at ``at``, the tensor's, if it can be, else the worst."""
    if made.shape != right.shape:
        return ()
    off = _distance(made, right)
    inside = len(at) == off.ndim and all(i < n for i, n in zip(at, off.shape, strict=True))
    return at if inside and off[at] else _largest(off)


def _compared(
    trial: _Trial, at: tuple[int, ...], right: np.ndarray, made: np.ndarray, theirs: np.ndarray | None
) -> str:
    """Operands, the engine's value, the right one and that of the mistake."""
    values = [words.operands(trial.use, at)] if right.ndim == len(at) else []
    if theirs is not None:
        values.append(f"engine has {words.number(theirs[at])}")
    if right.ndim == len(at) and right.shape == made.shape:
        values += [f"right is {words.number(right[at])}", f"{trial.name} gives {words.number(made[at])}"]
    else:
        values.append(trial.name)
    return ", ".join(filter(None, values))


def _in_one(chain: Chain, fused: Fused, before: np.ndarray, finding: NodeFinding) -> Cause:
    at = _largest(np.where(before, _distance(chain.theirs, _value(chain.right)), -1))
    values = f"engine has {words.number(chain.theirs[at])}, from what it shows follows {_value(chain.right)[at]:.9g}"
    hidden = ", ".join(fused.hidden[:SHOWN]) + (
        f" and {len(fused.hidden) - SHOWN} more" if fused.hidden[SHOWN:] else ""
    )
    count = int(before.sum())
    bound = f"the {len(fused.chain.nodes)} nodes in one allow {_value(fused.chain.right)[at]:.9g}"
    off = f"± {float(np.broadcast_to(fused.chain.right.bound, before.shape)[at]):.2g}"
    sentence = f"{finding.node} {words.index(at)}: {values}; it does not go on from {hidden}: {bound} {off}"
    return Cause(FUSED, f"{sentence}; explains {count} of {count} elements", at, count, count)


def _unknown(chain: Chain, before: np.ndarray, finding: NodeFinding) -> Cause:
    at = _largest(np.where(before, _distance(chain.theirs, _value(chain.right)), -1))
    use = next(iter(chain.uses()))
    text = words.operands(use, at) if chain.ends_with(use) else ""
    values = [f"engine has {words.number(chain.theirs[at])}", f"right is {words.number(_value(chain.right)[at])}"]
    where = words.concentrated(before)
    counts = f"{int(before.sum())} of {before.size} elements{where}"
    inside = finding.finding is not None and not finding.finding.outside
    why = "inside the bound of its roundings, so that no cause is needed" if inside else "no known cause"
    sentence = f"{finding.node} {words.index(at)}: {', '.join(filter(None, [text, *values]))}; {why}; {counts}"
    return Cause("", sentence, at, 0, int(before.sum()))


def _value(exact: Exact) -> np.ndarray:
    return exact.value if exact.ours is None else exact.ours


def _distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    off = np.abs(x.astype(np.float64) - y.astype(np.float64))
    return np.where(np.isnan(off), np.inf, off)


def _largest(x: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(x.argmax()), x.shape))
