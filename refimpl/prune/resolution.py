"""From the masks of movement sparsity to whole heads and neurons: NNCF's structured masking, once, after the warm-up.

    group            members, each with the grid that divides it into units
    attention        q, k, v (E, K): the rows of a head       attention_output (M, E): its columns
    feed-forward     intermediate (1, K): a row               output (M, 1): a column

    1  reset         every member's mask as training left it
    2  independent   unit lives if its part of the mask, or of the bias's, keeps anything     (``independent``)
    3  dependent     unit lives in all members if it lives in any of them                     (logical or)
    4  populate      masks are those of the units, whole: what a unit had lost comes back with the value that its
                     weights kept while they were masked. A bias's mask: any of its row

So sparsity falls at this step, and what stays is dense. Contract. Exact. "Independent" is, as in the original, the
product of two masks, of rows and of columns: of q, k, v and intermediate the bias counts for its rows, but the one
column must be kept by a weight, so where a member's weights are all gone its biases keep no unit. By the same product,
a member's bias whose output channels are not the group's units (attention_output, output) lives wholly if any unit
does. The original resolves only members whose "per_dim" axis is that of the group; blocks of any size will do. Source:
NNCF v2.14, experimental/torch/sparsity/movement/structured_mask_handler.py; Lagunas et al., arXiv 2109.04838, section
3.2.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from refimpl import check


class Masks(NamedTuple):
    """What lives of a linear layer. weight: bool (M, K); bias: bool (M,)."""

    weight: np.ndarray
    bias: np.ndarray


ATTENTION = {"q": True, "k": True, "v": True, "attention_output": False}
"""Member -> whether a head is rows of it (else columns)."""
FEED_FORWARD = {"intermediate": True, "output": False}


def independent(masks: Masks, by_rows: bool, size: int) -> np.ndarray:
    """Which units of ``size`` rows (else columns) a member keeps by itself. -> bool (units,)."""
    check.dtype("mask of the weight", masks.weight, np.bool_)
    check.dtype("mask of the bias", masks.bias, np.bool_)
    check.shape("mask of the weight", masks.weight, ("M", "K"))
    check.shape("mask of the bias", masks.bias, (masks.weight.shape[0],))
    channels: np.ndarray = np.any(masks.weight, axis=1 if by_rows else 0)
    if size < 1 or channels.size % size:
        raise ValueError(f"size is {size}; need a divisor of {channels.size}, the channels of the group")
    if by_rows:
        channels = (channels | masks.bias) & masks.weight.any()
    return np.any(channels.reshape(-1, size), axis=1)


def resolve(masks: Mapping[str, Masks], members: Mapping[str, bool], size: int) -> np.ndarray:
    """Which units live in any member of the group: steps 2 and 3. ``size``: E for attention, 1 for feed-forward.

    Raises TypeError for masks that are not bool, ValueError for shapes that do not make one group.
    """
    units = {name: independent(masks[name], by_rows, size) for name, by_rows in members.items()}
    live = units[next(iter(members))]
    for name, found in units.items():
        check.shape(f"units of {name}", found, live.shape)
        live = live | found
    return live


def populate(live: np.ndarray, masks: Mapping[str, Masks], members: Mapping[str, bool]) -> dict[str, Masks]:
    """The masks of whole units: step 4. live: bool (units,). Returns those of the members."""
    check.dtype("live", live, np.bool_)
    made = {}
    for name, by_rows in members.items():
        shape = masks[name].weight.shape
        channels = live.repeat(shape[0 if by_rows else 1] // live.size)
        weight = np.broadcast_to(channels[:, None] if by_rows else channels, shape).copy()
        made[name] = Masks(weight, np.any(weight, axis=1))
    return made


def resolve_layer(masks: Mapping[str, Masks], head_size: int) -> dict[str, Masks]:
    """All four steps for an encoder layer: the masks of q, k, v, attention_output, intermediate, output, made whole."""
    made: dict[str, Masks] = {}
    for members, size in ((ATTENTION, head_size), (FEED_FORWARD, 1)):
        made |= populate(resolve(masks, members, size), masks, members)
    return made
