"""Accuracy-aware tuning of a quantized model: layers go back to f32, NNCF's way, until the metric is good enough.

The search is ``refimpl.quant.tuning.restore_accuracy``; what it may keep is what the engine can: q, k and v of a layer
together, and any other layer alone.
"""

from collections.abc import Callable, Iterable

from refimpl.models.bert import linears
from refimpl.models.compress import Calibrated, Dense, Packed, Quantized, pack
from refimpl.models.precision import keep
from refimpl.quant.tuning import absolute_goal, restore_accuracy

TOGETHER = ("q", "k", "v")


def restored(
    quantized: Quantized, calibrated: Calibrated, measure: Callable[[Dense | Packed], dict[str, float]], max_drop: float
) -> tuple[Quantized, tuple[str, ...]]:
    """The model, and a line for each trial. measure: metrics, the first of which counts, larger is better."""
    units = _units(linears(calibrated.model))

    def keeping(kept: frozenset[str]) -> Quantized:
        return keep(quantized, calibrated, [name for unit in kept for name in units[unit]])

    def metric(kept: frozenset[str]) -> float:
        return _first(measure(pack(keeping(kept))))

    goal = absolute_goal(_first(measure(Dense(calibrated.model, calibrated.tokenizer))), max_drop)
    found = restore_accuracy(list(units), metric, goal)
    lines = [f"{trial.step}: {trial.value:.2f}{', good' if trial.good else ''}" for trial in found.trials]
    reached, kept = "reached" if found.reached else "not reached", ", ".join(sorted(found.kept)) or "none"
    told = f"goal {goal:.2f} {reached}; in f32: {kept}"
    return keeping(found.kept), (told, *lines)


def _first(metrics: dict[str, float]) -> float:
    return next(iter(metrics.values()))


def _units(names: Iterable[str]) -> dict[str, list[str]]:
    units: dict[str, list[str]] = {}
    for name in names:
        layer, _, last = name.rpartition(".")
        units.setdefault(f"{layer}.qkv" if last in TOGETHER else name, []).append(name)
    return units
