"""Plausible wrong answers to what a CPU's products are, and to whether a record is theirs. See tests/mutants.py."""

import test_7_records as records
import test_7_replay as replays
from mutants import Suite

from refimpl.models.records.replay import replay
from refimpl.models.records.semantics import DOT_PRODUCTS, semantics_of


def seen(**changes):
    """``semantics_of`` of an info that was changed first."""
    return lambda info: semantics_of(info | {key: change(info) for key, change in changes.items()})


def with_features(change):
    return seen(cpu=lambda info: info["cpu"] | {"features": sorted(change(set(info["cpu"]["features"])))})


SEMANTICS = Suite(
    records.check_semantics,
    semantics_of,
    {
        "the limit is ignored": seen(isa=lambda info: "native"),
        "every AVX-512 has VNNI": with_features(lambda f: f | {"avx512vnni"} if "avx512f" in f else f),
        "BF16 is taken for VNNI": with_features(lambda f: f | {"avx512vnni"} if "avx512bf16" in f else f),
        "AVX-VNNI is forgotten": with_features(lambda f: f - {"avxvnni"}),
        "AVX2 suffices": with_features(lambda f: f | DOT_PRODUCTS if "avx2" in f else f),
        "every engine is known": seen(engine=lambda info: "openvino"),
        "every CPU is an x86": with_features(lambda f: f | {"avx2"}),
    },
)


def judged(change):
    """``replay`` of a record that was changed first."""
    return lambda record, graph: replay(change(record), graph)


REPLAY = Suite(
    replays.check_replay,
    replay,
    {
        "every CPU has VNNI": judged(lambda r: replays.from_cpu(r, r.info["engine"], replays.VNNI)),
        "none has": judged(lambda r: replays.from_cpu(r, r.info["engine"], replays.AVX2)),
        "whatever explains it": judged(lambda r: replays.from_cpu(r, "function m:f", [])),
        "the inputs alone": judged(lambda r: r._replace(values={"codes0": r.values["codes0"]})),
        "the outputs alone": judged(lambda r: r._replace(values={"sum1": r.values["sum1"]})),
        "the other is not tried": lambda record, graph: replay(record, graph)._replace(others=[]),
    },
)
RECORDS = [SEMANTICS, REPLAY]
