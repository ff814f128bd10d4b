"""Fill the report: each layer as it is, then the model under each remedy."""

from collections.abc import Callable, Sequence

import numpy as np

from refimpl.integer.pairs import add_excess, count_saturated
from refimpl.models.bert import Batch
from refimpl.models.saturation.layouts import Layout
from refimpl.models.saturation.remedies import Remedy, Treated, Treatment, as_it_is, offered, treatment
from refimpl.models.saturation.report import LayerRow, RemedyRow
from refimpl.models.saturation.run import SATURATING, Recorded, labels, outputs, prepared, recorded
from refimpl.models.saturation.subject import Subject

Say = Callable[[str], None]


def layer_rows(subject: Subject, layout: Layout, batches: Sequence[Batch]) -> list[LayerRow]:
    """Every linear layer as it is, on the codes of the exact run."""
    plain = as_it_is(subject, layout)
    _, codes = recorded(prepared(subject.quantized.model, plain), batches)
    return [_layer_row(name, treated, codes[name]) for name, treated in plain.items()]


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
    added = np.zeros((len(codes), len(treated.linear.codes)), np.int32)
    add_excess(added, codes, treated.pairs)
    return int(np.count_nonzero(added))


def remedy_rows(
    subject: Subject, layout: Layout, batches: Sequence[Batch], done: dict[str, Treatment], say: Say
) -> tuple[list[RemedyRow], float]:
    """Every remedy that the layout has, and the largest value of the exact output. ``say`` is told each name.

    done: the treatments are kept there.
    """
    truth = recorded(prepared(subject.quantized.model, as_it_is(subject, layout)), batches)
    rows = []
    for remedy in offered(layout).values():
        say(remedy.name)
        treated = treatment(subject, layout, remedy.name, done)
        rows.append(_remedy_row(subject, remedy, treated, batches, truth))
    return rows, max(float(np.abs(result).max()) for result in truth[0])


def _remedy_row(
    subject: Subject, remedy: Remedy, treated: Treatment, batches: Sequence[Batch], truth: Recorded
) -> RemedyRow:
    model, config = prepared(subject.quantized.model, treated), subject.quantized.model.config
    results, codes = truth if remedy.exact else recorded(model, batches)
    wrong = sum(wrong_outputs(t, codes[name]) for name, t in treated.items())
    if wrong:  # where the exact codes of no layer saturate, a saturating run is the exact run
        results = outputs(model, batches, SATURATING)
    errors = np.concatenate([np.abs(ours - theirs).ravel() for ours, theirs in zip(results, truth[0], strict=True)])
    before, after = labels(truth[0], config), labels(results, config)
    layers = treated.values()
    return RemedyRow(
        name=remedy.name,
        what=remedy.what,
        exact=remedy.exact,
        unsafe=sum(t.unsafe for t in layers),
        wrong=wrong,
        outputs=sum(len(codes[name]) * len(t.linear.codes) for name, t in treated.items()),
        largest=float(errors.max()),
        mean=float(errors.mean()),
        changed=int((before != after).sum()),
        labels=before.size,
        macs=sum(t.layout.macs(t.stored) for t in layers),
        bytes=sum(t.size for t in layers),
        gathers=sum(t.gathers for t in layers),
    )
