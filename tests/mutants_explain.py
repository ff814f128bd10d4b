"""Plausible wrong ways to follow a trace, for test_mutants."""

from unittest import mock

import test_6_explain as explain
from mutants import Suite

from refimpl.kernels.simd import provenance as module
from refimpl.kernels.simd.provenance import Byte, provenance


def following(instruction, change):
    """``provenance`` with what it finds for one instruction changed."""
    true = module._FOLLOW[instruction]

    def mutant(steps):
        with mock.patch.dict(module._FOLLOW, {instruction: lambda step, found: change(true(step, found))}):
            return provenance(steps)

    return mutant


def first_copy_only(lanes):
    """A broadcast that fills one dword."""
    return [*lanes[:4], *(Byte(0) for _ in lanes[4:])]


def in_pairs(lanes):
    """Each clipped pair as its two exact products."""
    return [(pair.first, pair.second) for (pair,) in lanes]


EXPLAIN = [
    Suite(
        explain.check_provenance,
        provenance,
        {
            "broadcast fills one dword": following("vpbroadcastd", first_copy_only),
            "load one byte off": following("vmovdqu8_load", lambda lanes: [*lanes[1:], lanes[0]]),
            "interleave with its operands exchanged": following(
                "vpunpcklbw", lambda lanes: [lanes[i ^ 1] for i in range(64)]
            ),
            "dot product forgets what was there": following("vpdpbusd", lambda lanes: [terms[-4:] for terms in lanes]),
            "dot product counts a product twice": following("vpdpbusd", lambda lanes: [t + t[-1:] for t in lanes]),
            "pairs not saturated": following("vpmaddubsw", in_pairs),
            "neighbours not added": following("vpmaddwd", lambda lanes: [terms[:1] for terms in lanes]),
        },
    )
]
