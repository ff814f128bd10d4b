"""Plausible wrong ways to follow a trace, for test_mutants."""

from unittest import mock

import test_6_explain as explain
from mutants import Suite

from refimpl.kernels.simd import provenance as module
from refimpl.kernels.simd.provenance import Item, provenance


def following(instruction, change):
    """``provenance`` with what it finds for one instruction changed."""
    true = module._FOLLOW[instruction]

    def mutant(steps):
        with mock.patch.dict(module._FOLLOW, {instruction: lambda step, found: change(true(step, found))}):
            return provenance(steps)

    return mutant


def first_copy_only(lanes):
    """A broadcast that fills one dword."""
    return [*lanes[:4], *(Item(0) for _ in lanes[4:])]


def in_pairs(lanes):
    """Each clipped pair as its two exact products."""
    return [(pair.first, pair.second) for (pair,) in lanes]


def lower_first(lanes):
    """The pair that was added last, in the order of k."""
    return [terms[:-2] + terms[:-3:-1] for terms in lanes]


def meeting(change):
    """``provenance`` with what meets in a dot product changed."""
    true = module.met

    def mutant(steps):
        with mock.patch.object(module, "met", lambda step: change(step, true(step))):
            return provenance(steps)

    return mutant


def plain_matrix(step, pairs):
    """A weight tile read as (input channel, output channel): as if four k did not share a dword."""
    if step.tile is None:
        return pairs
    columns = step.result.shape[1]
    return [[(i, k * columns + lane % columns) for k, (i, _) in enumerate(met)] for lane, met in enumerate(pairs)]


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
            "bf16: the lower of a pair first": following("vdpbf16ps", lower_first),
            "bf16: forgets what was there": following("vdpbf16ps", lambda lanes: [terms[-2:] for terms in lanes]),
            "bf16: load one element off": following("vmovdqu16_load", lambda lanes: [*lanes[1:], lanes[0]]),
            "tile: load one row off": following("tileloadd", lambda lanes: [*lanes[64:], *lanes[:64]]),
            "tile: forgets what was there": following("tdpbusd", lambda lanes: [terms[-64:] for terms in lanes]),
            "tile: weights as a plain matrix": meeting(plain_matrix),
            "neighbours not added": following("vpmaddwd", lambda lanes: [terms[:1] for terms in lanes]),
        },
    )
]
