"""NNCF's report on structured masks, ``structured_sparsity.csv``, and its statistics of sparsity.

A row says of one member of a group how large it is and would be without its dead units:

    group_id, torch_module, weight_shape, pruned_weight_shape, bias_shape, pruned_bias_shape,
    head_or_channel_id_to_keep

More than 20 kept ids are shown as "[n items]". Contract: masks are those that ``resolution.populate`` makes; rows, or
columns, that are not all pruned are counted, and a unit is kept if any of its channels is. A bias is as long as the
rows that are left where units are rows, and whole where they are columns. Source: NNCF v2.14,
experimental/torch/sparsity/movement/structured_mask_handler.py (report_structured_sparsity).
"""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from refimpl.prune.resolution import ATTENTION, FEED_FORWARD, Masks

MOST_IDS = 20


class Row(NamedTuple):
    """One line of the table; its fields are the columns of the file."""

    group_id: int
    torch_module: str
    weight_shape: tuple[int, int]
    pruned_weight_shape: tuple[int, int]
    bias_shape: tuple[int]
    pruned_bias_shape: tuple[int]
    head_or_channel_id_to_keep: str


def rows_of(layers: Iterable[Mapping[str, Masks]], head_size: int) -> list[Row]:
    """The table of a model: of each layer attention, then feed-forward. A module is called "layer.0.q"."""
    found = []
    for i, masks in enumerate(layers):
        for j, (members, size) in enumerate(((ATTENTION, head_size), (FEED_FORWARD, 1))):
            for name, by_rows in members.items():
                found.append(_row(2 * i + j, f"layer.{i}.{name}", masks[name], by_rows, size))
    return found


def _row(group: int, name: str, masks: Masks, by_rows: bool, size: int) -> Row:
    m, k = masks.weight.shape
    channels = masks.weight.any(1 if by_rows else 0)
    kept, left = np.flatnonzero(channels.reshape(-1, size).any(1)), int(channels.sum())
    ids = str(kept.tolist()) if kept.size <= MOST_IDS else f"[{kept.size} items]"
    if by_rows:
        return Row(group, name, (m, k), (left, k), (m,), (int(masks.bias.sum()),), ids)
    return Row(group, name, (m, k), (m, left), (m,), (m,), ids)


def to_csv(rows: Iterable[Row]) -> str:
    """The text of ``structured_sparsity.csv``; the first column counts lines, as pandas writes it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *Row._fields])
    writer.writerows([i, *row] for i, row in enumerate(rows))
    return text.getvalue()


def sparsity(masks: Iterable[np.ndarray]) -> float:
    """The share of elements that are pruned, over all masks together: bool (...), at least one element.

    >>> sparsity([np.array([True, False]), np.array([False, False])])
    0.75
    """
    counts = [(mask.size - int(mask.sum()), mask.size) for mask in masks]
    if not sum(size for _, size in counts):
        raise ValueError("masks hold no element; need at least one")
    return sum(pruned for pruned, _ in counts) / sum(size for _, size in counts)
