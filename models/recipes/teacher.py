"""The teacher beside the student: what it says of a batch, once though two losses ask."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from refimpl.models.bert import Batch, Model, forward
from refimpl.models.training.inner import Keep
from refimpl.nn import Ops

END = "layer.{}.output_norm"
"""The tap of a layer's end."""


class Said(NamedTuple):
    """logits: as the head gives them; ends: tap -> hidden states (B, T, D)."""

    logits: np.ndarray
    ends: Mapping[str, np.ndarray]


Ask = Callable[[Batch], Said]


def asker(teacher: Model, ops: Ops, ends: frozenset[str], twice: bool) -> Ask:
    """Without dropout. ends: the taps that are wanted; twice: each batch is asked twice, and what is said is kept until
    it was."""
    kept: list[tuple[Batch, Said]] = []

    def ask(batch: Batch) -> Said:
        if kept and kept[0][0] is batch:
            return kept.pop()[1]
        kept.clear()
        values = Keep({}, ends)
        said = Said(forward(teacher, batch, ops, values), values.values)
        if twice:
            kept.append((batch, said))
        return said

    return ask
