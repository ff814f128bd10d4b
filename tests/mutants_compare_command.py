"""Plausible wrong versions of what a comparison makes of an engine's run. See tests/mutants.py."""

import test_7_compare_command as compare
from mutants import Suite

from refimpl.models.compare import judged
from refimpl.models.compare.judged import verdict_on
from refimpl.models.compare.reading import read
from refimpl.models.oracle.judge_nodes import judge_nodes


def always(fuse):
    """A reading that looks at nothing."""

    def reading(graph, inputs, run, engine, semantics):
        meant = semantics._replace(fuse=fuse)
        return judge_nodes(graph, inputs, run.values, meant), meant

    return reading


def by_count_alone(graph, inputs, run, engine, semantics):
    return always(bool(run.info["layers"]))(graph, inputs, run, engine, semantics)


def by_values_alone(graph, inputs, run, engine, semantics):
    return read(graph, inputs, run, "m:f", semantics)


def with_part(**parts):
    """``verdict_on`` with other functions of its module."""

    def verdict(*arguments):
        true = {name: getattr(judged, name) for name in parts}
        try:
            for name, part in parts.items():
                setattr(judged, name, part)
            return verdict_on(*arguments)
        finally:
            for name, part in true.items():
                setattr(judged, name, part)

    return verdict


def forgiven(verdict, finding, made_by):
    return finding._replace(finding=finding.finding._replace(outside=0))


def silent_is_followed(verdict, names):
    return [row._replace(followed=True) for row in judged_rows(verdict, names)]


judged_rows = judged._rows

COMPARE_COMMAND = [
    Suite(
        compare.check_reading,
        read,
        {
            "always integers": always(True),
            "always floats": always(False),
            "by what is counted alone": by_count_alone,
            "by the values alone": by_values_alone,
        },
    ),
    Suite(
        compare.check_verdict,
        verdict_on,
        {
            "judged once": with_part(_again=lambda verdict, finding, made_by: finding),
            "forgiven the second time": with_part(_again=forgiven),
            "over sums of floats, too": with_part(SUMS=()),
            "what is not shown was judged": with_part(_rows=silent_is_followed),
        },
    ),
]
