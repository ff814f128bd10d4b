"""Plausible wrong finders of causes. See tests/mutants.py."""

from unittest.mock import patch

import test_7_compare as compare
import test_7_oracle_liberties as liberties
from mutants import Suite

from refimpl.models.compare import causes
from refimpl.models.compare.causes import find_cause
from refimpl.models.compare.chain import Chain
from refimpl.models.oracle.execute import execute
from refimpl.nn import Recorder


def easily_convinced(*arguments):
    """Takes the least bad mistake, however little it explains."""
    with patch.object(causes, "TOLERATED", 1):
        return find_cause(*arguments)


def only_what_was_wrong(*arguments):
    """Does not look at what a mistake would break."""
    wrong = Chain.wrong
    with patch.object(Chain, "wrong", lambda self, exact: wrong(self, exact) & wrong(self, self.right)):
        return find_cause(*arguments)


def the_last_node_only(*arguments):
    """Suspects the node that made the tensor, nothing before it."""
    with patch.object(causes, "NEAREST", 1):
        return find_cause(*arguments)


def on_our_own_values(graph, inputs, engine, finding):
    """Makes the mistakes on what we computed, not on what the engine had."""
    recorder = Recorder()
    execute(graph, inputs, tap=recorder)
    ours = {name: value for name, value in recorder.values.items() if name in engine}
    return find_cause(graph, inputs, ours | {finding.tensor: engine[finding.tensor]}, finding)


def the_vaguest(*arguments):
    """Of several that explain as much, a fitted number before a mistake with a name."""
    trials = causes._trials
    with patch.object(causes, "_trials", lambda *given: (t._replace(vague=-t.vague) for t in trials(*given))):
        return find_cause(*arguments)


def without_products(*arguments):
    """Knows no product of codes but the exact one."""
    known = [hypothesis for hypothesis in causes.HYPOTHESES if "pair" not in hypothesis.name]
    with patch.object(causes, "HYPOTHESES", known):
        return find_cause(*arguments)


def as_shown(*arguments):
    """Believes that an engine goes on with what it shows."""
    with patch.object(causes, "find_fused", lambda *_: None):
        return find_cause(*arguments)


def always_fused(*arguments):
    """Blames what is not known on several nodes in one, whatever they allow."""
    found = find_cause(*arguments)
    return found if found.hypothesis else found._replace(hypothesis=causes.FUSED)


COMPARE = [
    Suite(compare.check_unknown, find_cause, {"easily convinced": easily_convinced}),
    Suite(liberties.check_fused, find_cause, {"nothing in one": as_shown, "always in one": always_fused}),
    Suite(compare.check_partial, find_cause, {"only what was wrong": only_what_was_wrong}),
    Suite(compare.check_hidden, find_cause, {"the last node only": the_last_node_only}),
    Suite(compare.check_own_values, find_cause, {"on our own values": on_our_own_values}),
    Suite(compare.check_engines, find_cause, {"the vaguest first": the_vaguest, "without products": without_products}),
]
