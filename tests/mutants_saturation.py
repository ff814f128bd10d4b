"""Plausible wrong versions of the static test, of its ranges and of the repairs. See tests/mutants.py."""

import numpy as np
import test_8_saturation as saturation
from mutants import Suite

from refimpl.integer.pairs import unsafe_pairs
from refimpl.saturation import ranges, repairs
from refimpl.saturation.pair_costs import pair_costs
from refimpl.saturation.slots import Slots, as_stored


def limits(lowest, largest):
    def function(w, most):
        pairs = (w.astype(int) * most).reshape(len(w), -1, 2)
        return (np.maximum(pairs, 0).sum(-1) > largest) | (np.minimum(pairs, 0).sum(-1) < lowest)

    return function


def by_sum(bound):
    """Like |w0 + w1| > bound: what the test is for 255 alone."""
    return lambda w, most: np.abs(w.astype(int).reshape(len(w), -1, 2).sum(-1)) > bound


UNSAFE = Suite(
    saturation.check_unsafe_pairs_below,
    unsafe_pairs,
    {
        "32768 above": limits(-32768, 32768),
        "32766 above": limits(-32768, 32766),
        "-32767 below": limits(-32767, 32767),
        "-32769 below": limits(-32769, 32767),
        "most ignored": lambda w, most: unsafe_pairs(w),
        "128 of any code": by_sum(128),
        "127 of any code": by_sum(127),
        "largest most of the layer": lambda w, most: unsafe_pairs(w, int(most.max())),
        "mosts exchanged": lambda w, most: unsafe_pairs(w, most.reshape(-1, 2)[:, ::-1].reshape(-1)),
        "pairs (1, 2)": lambda w, most: unsafe_pairs(np.roll(w, 1, 1), np.roll(most, 1)),
        "absolute values": lambda w, most: (np.abs(w.astype(int)) * most).reshape(len(w), -1, 2).sum(-1) > 32767,
        "no negative sums": limits(-(10**9), 32767),
        "most - 1": lambda w, most: unsafe_pairs(w, np.maximum(most - 1, 0)),
    },
)


def norm_bound(root, rounding, part=lambda p: p.bias):
    def function(p, scale):
        bound = np.abs(p.weight) * root(p.weight.size) + part(p)
        return np.clip(128 + np.floor(bound / scale + rounding), 0, 255).astype(np.int32)

    return function


RANGES = Suite(
    saturation.check_most_after_norm,
    ranges.most_after_norm,
    {
        "three standard deviations": norm_bound(lambda d: 3, 0.5),
        "rounded down": norm_bound(lambda d: d**0.5, 0),
        "bias forgotten": norm_bound(lambda d: d**0.5, 0.5, lambda p: 0),
        "size of the bias": norm_bound(lambda d: d**0.5, 0.5, lambda p: np.abs(p.bias)),
        "D for sqrt D": norm_bound(lambda d: d, 0.5),
        "the full range": lambda p, scale: np.full(p.weight.size, 255, np.int32),
    },
)

COSTS = Suite(
    saturation.check_pair_costs,
    pair_costs,
    {
        "big ones counted twice": lambda w, most: (
            pair_costs(w, most)
            + sum((b.astype(int).T @ b) * (1 - np.eye(w.shape[1], dtype=int)) for b in (w > 64, w < -64)).astype(
                np.int32
            )
        ),
        "most ignored": lambda w, most: pair_costs(w),
        "positive sums only": lambda w, most: pair_costs(np.maximum(w, 0), most),
        "any row": lambda w, most: (pair_costs(w, most) > 0).astype(np.int32),
    },
)


def check_split(function):
    saturation.check_repair(function, True)


def wrong_split(limit):
    """Cut at another limit."""

    def function(slots, most):
        safe = np.clip(slots.codes, -limit, limit)
        rest = (slots.codes.astype(np.int16) - safe).astype(np.int8)
        return Slots(np.tile(slots.columns, 2), np.concatenate([safe, rest], 1))

    return function


def rest_lost(slots, most):
    return slots._replace(codes=np.clip(slots.codes, -64, 64))


def unmatched(slots, most):
    """Weights permuted, activations not."""
    return repairs.zero_paired(slots._replace(codes=repairs.re_paired(slots, most).codes), most)


REPAIR = Suite(
    check_split,
    repairs.split,
    {
        "cut at 65": wrong_split(65),
        "cut at 63": wrong_split(63),  # 127 - 63 leaves 64, but -128 + 63 leaves -65
        "rest lost": rest_lost,
        "weights permuted, activations not": unmatched,
        "re-pairing alone": repairs.re_paired,
        "nothing": lambda slots, most: slots,
        "zeros after the pair": lambda slots, most: repairs.whole(as_stored(np.pad(slots.codes, ((0, 0), (0, 0))))),
    },
)

SATURATION = [UNSAFE, RANGES, COSTS, REPAIR]
