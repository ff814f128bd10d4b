"""Fill the report: each layer as it is, then the model under each remedy."""

from collections.abc import Callable, Sequence

import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.integer.pairs import add_excess, count_saturated
from refimpl.models.bert import Batch
from refimpl.models.saturation.layouts import Layout, gathers
from refimpl.models.saturation.remedies import Remedy, Treated, as_it_is, offered
from refimpl.models.saturation.report import LayerRow, RemedyRow
from refimpl.models.saturation.run import EXACT, SATURATING, labels, outputs, prepared, recorded
from refimpl.models.saturation.subject import Subject
from refimpl.saturation.slots import Slots

Say = Callable[[str], None]


def layer_rows(subject: Subject, layout: Layout, batches: Sequence[Batch]) -> list[LayerRow]:
    """Every linear layer as it is, on the codes of the exact run."""
    treatment = as_it_is(subject, layout)
    _, codes = recorded(prepared(subject.quantized.model, treatment), batches)
    return [_layer_row(name, treated, codes[name]) for name, treated in treatment.items()]


def _layer_row(name: str, treated: Treated, codes: np.ndarray) -> LayerRow:
    pairs, count = treated.pairs, treated.layout.macs(treated.stored) // 2
    return LayerRow(
        layer=name,
        pairs=count,
        most=int(np.median(treated.most)),
        unsafe_full=int(pairs.row.size),
        unsafe=treated.unsafe,
        sums=count * len(codes),
        clipped=count_saturated(codes, pairs),
        outputs=len(codes) * len(treated.linear.codes),
        wrong=wrong_outputs(treated, codes),
    )


def wrong_outputs(treated: Treated, codes: np.ndarray) -> int:
    """How many accumulators of these codes saturation changes. codes: u8 (N, K)."""
    exact = gemm_u8s8s32(codes, treated.linear.codes)
    saturating = exact.copy()
    add_excess(saturating, codes, treated.pairs)
    return int((saturating != exact).sum())


def remedy_rows(subject: Subject, layout: Layout, batches: Sequence[Batch], say: Say) -> tuple[list[RemedyRow], float]:
    """Every remedy that the layout has, and the largest value of the exact output. ``say`` is told each name."""
    truth = outputs(prepared(subject.quantized.model, as_it_is(subject, layout)), batches, EXACT)
    rows = []
    for remedy in offered(layout).values():
        say(remedy.name)
        rows.append(_remedy_row(subject, layout, remedy, batches, truth))
    return rows, max(float(np.abs(result).max()) for result in truth)


def _remedy_row(
    subject: Subject, layout: Layout, remedy: Remedy, batches: Sequence[Batch], truth: list[np.ndarray]
) -> RemedyRow:
    treatment = remedy.treat(subject, layout)
    model, config = prepared(subject.quantized.model, treatment), subject.quantized.model.config
    _, codes = recorded(model, batches)
    results = outputs(model, batches, SATURATING)
    errors = np.concatenate([np.abs(ours - theirs).ravel() for ours, theirs in zip(results, truth, strict=True)])
    before, after = labels(truth, config), labels(results, config)
    layers = treatment.values()
    return RemedyRow(
        name=remedy.name,
        what=remedy.what,
        exact=remedy.exact,
        unsafe=sum(t.unsafe for t in layers),
        wrong=sum(wrong_outputs(t, codes[name]) for name, t in treatment.items()),
        outputs=sum(len(codes[name]) * len(t.linear.codes) for name, t in treatment.items()),
        largest=float(errors.max()),
        mean=float(errors.mean()),
        changed=int((before != after).sum()),
        labels=before.size,
        macs=sum(layout.macs(t.stored) for t in layers),
        bytes=sum(layout.size(t.stored) for t in layers),
        gathers=sum(isinstance(t.stored, Slots) and gathers(t.stored) and not t.folded for t in layers),
    )
