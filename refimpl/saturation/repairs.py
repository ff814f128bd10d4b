"""Three exact repairs of a layer that could saturate on CPUs without VNNI. None changes an accumulator.

    re-pairing     slots = columns in another order                            no more slots; some pairs may stay unsafe
    zero-pairing   (w0, w1) -> (w0, 0)(w1, 0)                                   two slots more a pair; always safe
    split          w = clip(w, -64, 64) + rest                                  a slot more a split column; always safe

Why they are safe: 255 * 128 <= 32767 for one weight alone; 2 * 255 * 64 <= 32767 for two clipped ones; the rest of an
s8 weight is at most 64 in magnitude. All three hold for any smaller largest code as well.

* A permutation serves all output channels of a dense layer at once, so it cannot help every row; one for each
  block row of 4 output channels, as 4x1 blocks allow for nothing, nearly always can.
* Zero-pairing takes the pairs that are unsafe in *any* row.
* The split takes only weights beyond 64 in unsafe pairs; the columns that have any are stored twice.

What a permutation of a dense layer's input costs in a BERT: the output channels of ``intermediate`` reach ``output``
through GELU and one scale, element by element, so permuting its rows permutes that input for nothing. ``v`` reaches
``attention_output`` through a sum over tokens, so its rows may be permuted within a head for nothing, and only there
(whole heads may be exchanged too, with those of q and k, which does not change a pair). The residual stream feeds q, k,
v and ``intermediate`` of all layers: one permutation for all of them costs nothing but changes the order in which a
layer norm sums, so float bits; one for each layer is a gather of the codes before the product. So is any other.
"""

import numpy as np

from refimpl.integer.pairs import FULL, unsafe_pairs
from refimpl.saturation.matching import match
from refimpl.saturation.pair_costs import pair_costs
from refimpl.saturation.slots import WHOLE, Slots, most_at

SAFE = 64
"""Two weights of this magnitude cannot saturate: 2 * 255 * 64 = 32640."""


def re_paired(slots: Slots, most: np.ndarray | int = FULL, rounds: int = 12) -> Slots:
    """Slots in the order of the cheapest matching found; zeros are added up to a multiple of four and take part.

    Among pairs that are safe, those are preferred that are so for any codes, in case ``most`` is all that makes them.
    most: integer () or (K,), the largest code of each input channel.
    """
    slots = whole(slots)
    return _taken(slots, match(_costs(slots, most), rounds).reshape(-1))


def re_paired_within(slots: Slots, size: int, most: np.ndarray | int = FULL, rounds: int = 12) -> Slots:
    """The same with no slot leaving its run of ``size``, an even number that divides them: the channels of a head."""
    if size % 2 or slots.columns.size % size:
        raise ValueError(f"size is {size}; need an even number that divides {slots.columns.size}")
    costs = _costs(slots, most)
    starts = range(0, slots.columns.size, size)
    runs = [start + match(costs[start : start + size, start : start + size], rounds) for start in starts]
    return _taken(slots, np.concatenate(runs).reshape(-1))


def _costs(slots: Slots, most: np.ndarray | int) -> np.ndarray:
    """Unsafe rows, and as a fraction of one those that are unsafe for any codes; in units of that fraction."""
    any_codes = pair_costs(slots.codes)
    at = most_at(slots, most)
    return any_codes if np.all(np.equal(at, FULL)) else len(slots.codes) * pair_costs(slots.codes, at) + any_codes


def zero_paired(slots: Slots, most: np.ndarray | int = FULL) -> Slots:
    """Each of two neighbours that could saturate in any row beside a zero instead. No pair is unsafe afterwards."""
    slots = whole(slots)
    unsafe = unsafe_pairs(slots.codes, most_at(slots, most)).any(0)
    at = np.arange(slots.columns.size).reshape(-1, 2)
    empty = np.full(2 * int(unsafe.sum()), -1)
    alone = np.stack([at[unsafe].reshape(-1), empty], 1)
    return whole(_taken(slots, np.concatenate([at[~unsafe], alone]).reshape(-1)))


def split(slots: Slots, most: np.ndarray | int = FULL) -> Slots:
    """Weights beyond 64 in unsafe pairs cut to 64, and what was cut off in slots behind: no pair is unsafe then."""
    unsafe = unsafe_pairs(slots.codes, most_at(slots, most)).repeat(2, 1)[:, : slots.columns.size]
    safe = np.where(unsafe, np.clip(slots.codes, -SAFE, SAFE), slots.codes).astype(np.int8)
    rest = (slots.codes.astype(np.int16) - safe).astype(np.int8)
    cut = np.flatnonzero(rest.any(0))
    kept = whole(slots._replace(codes=safe))
    columns = np.concatenate([kept.columns, slots.columns[cut]])
    return whole(Slots(columns, np.concatenate([kept.codes, rest[:, cut]], 1)))


def whole(slots: Slots) -> Slots:
    """Padded with zeros to a multiple of four; they repeat the last column."""
    size = slots.columns.size
    return _taken(slots, np.append(np.arange(size), np.full(-size % WHOLE, -1))) if size % WHOLE else slots


def _taken(slots: Slots, order: np.ndarray) -> Slots:
    """The slots in an order in which -1 is a zero; it repeats the column before it."""
    column = np.maximum.accumulate(np.where(order < 0, -1, np.arange(order.size)))
    zero = np.zeros((len(slots.codes), 1), np.int8)
    return Slots(slots.columns[order[column]], np.concatenate([slots.codes, zero], 1)[:, order])
