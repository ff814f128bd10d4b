"""Accuracy-aware tuning of a quantized model: layers go back to f32 until the metric is good enough.

    nncf         NNCF's search, layers ranked by the metric itself; max_drop in points
    nncf-nmse    the same, ranked by the error of the outputs on the calibration rows, the smallest first
    inc          Intel Neural Compressor's search; max_drop in percent of the f32 model's metric

The searches are ``refimpl.quant.tuning``'s; what they may keep is what the engine can: q, k and v of a layer together,
and any other layer alone.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import NamedTuple

from refimpl.models.bert import Batch, linears
from refimpl.models.compress import Calibrated, Dense, Packed, Quantized, pack
from refimpl.models.precision import keep
from refimpl.models.quantization.tuning import negative_nmse
from refimpl.models.recipes.kinds import Quantize
from refimpl.quant.tuning import Evaluate, Trial, absolute_goal, fall_back, relative_goal, restore_accuracy

TOGETHER = ("q", "k", "v")


class Restored(NamedTuple):
    """The model; what came of it, in a line; every call of the search."""

    quantized: Quantized
    note: str
    trials: tuple[Trial, ...]


def restored(
    quantized: Quantized,
    calibrated: Calibrated,
    measure: Callable[[Dense | Packed], dict[str, float]],
    how: Quantize,
    batches: Sequence[Batch],
    tell: Callable[[int], None] = lambda tried: None,
) -> Restored:
    """measure: metrics, the first of which counts, larger is better; how: its max_drop and tuning; batches: for it;
    tell: how many models have been tried, before each."""
    units, tried = _units(linears(calibrated.model)), count()

    def told(evaluate: Evaluate) -> Evaluate:
        def call(kept: frozenset[str]) -> float:
            tell(next(tried))
            return evaluate(kept)

        return call

    def names(kept: frozenset[str]) -> frozenset[str]:
        return frozenset(name for unit in kept for name in units[unit])

    @told
    def metric(kept: frozenset[str]) -> float:
        return _first(measure(pack(keep(quantized, calibrated, names(kept)))))

    assert how.max_drop is not None
    before = _first(measure(Dense(calibrated.model, calibrated.tokenizer)))
    if how.tuning == "inc":
        goal = relative_goal(before, how.max_drop / 100)
        found = fall_back(list(units), metric, goal)
    else:
        goal = absolute_goal(before, how.max_drop)
        ranks = negative_nmse(quantized, calibrated, batches) if how.tuning == "nncf-nmse" else None
        score = None if ranks is None else told(lambda kept: ranks(names(kept)))
        found = restore_accuracy(list(units), metric, goal, score)
    reached, kept = "reached" if found.reached else "not reached", ", ".join(sorted(found.kept)) or "none"
    note = f"goal {goal:.2f} {reached}; in f32: {kept}"
    return Restored(keep(quantized, calibrated, names(found.kept)), note, found.trials)


def _first(metrics: dict[str, float]) -> float:
    return next(iter(metrics.values()))


def _units(names: Iterable[str]) -> dict[str, list[str]]:
    units: dict[str, list[str]] = {}
    for name in names:
        layer, _, last = name.rpartition(".")
        units.setdefault(f"{layer}.qkv" if last in TOGETHER else name, []).append(name)
    return units
