"""The remedies: what becomes of every linear layer under each, in a layout.

Exact ones change how a weight is stored and nothing else; lossy ones quantize the f32 weights, or the activations,
into a smaller range. ``MENU`` has them in the order of the table.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from refimpl.integer.pairs import FULL, Pairs
from refimpl.models.bert import linears
from refimpl.models.saturation.layouts import BLOCKS, DENSE_AND_BLOCKS, Layout, in_place, split_in_two
from refimpl.models.saturation.subject import Most, Subject
from refimpl.quant import QuantizedLinear
from refimpl.saturation import reduced_range, repairs
from refimpl.saturation.slots import Slots
from refimpl.saturation.u7 import U7_MOST, u7_scale


class Treated(NamedTuple):
    """A linear layer under a remedy. linear: its exact weight; stored: that, in the layout; most: the largest codes;
    seven_bits: whether its activations are u7; folded: whether what comes before it already permutes its input."""

    linear: QuantizedLinear
    stored: Any
    layout: Layout
    most: Most = FULL
    seven_bits: bool = False
    folded: bool = False

    @property
    def pairs(self) -> Pairs:
        """Those that could saturate if any code may be 255: what a run is emulated with, so that no proof is needed."""
        return self.layout.pairs(self.stored, FULL)

    @property
    def unsafe(self) -> int:
        """How many pairs could saturate on some input, as far as is proved: if 0, none ever does."""
        return int(self.layout.pairs(self.stored, self.most).row.size)

    @property
    def gathers(self) -> bool:
        """Whether the codes are permuted at run time: dense slots in another order that nothing else takes care of."""
        return isinstance(self.stored, Slots) and not in_place(self.stored) and not self.folded

    @property
    def size(self) -> int:
        """Bytes, with the columns where they are needed."""
        return self.layout.size(self.stored) + (self.stored.columns.nbytes if self.gathers else 0)


Treatment = dict[str, Treated]


def as_it_is(subject: Subject, layout: Layout) -> Treatment:
    """Nothing done."""
    treated = {}
    for name, p in linears(subject.quantized.model).items():
        given = subject.stored.get(name) if layout is BLOCKS else None
        treated[name] = Treated(p, layout.store(p.codes) if given is None else given, layout, subject.most[name])
    return treated


def re_paired_for_nothing(subject: Subject, layout: Layout) -> Treatment:
    """Dense only: where the rows of the layer before can take the permutation; see ``refimpl.saturation.repairs``."""
    size = subject.quantized.model.config.head_size
    treated = as_it_is(subject, layout)
    for name, t in treated.items():
        if name.endswith(".attention_output") and size % 2 == 0:
            treated[name] = t._replace(stored=repairs.re_paired_within(t.stored, size, t.most), folded=True)
        elif name.endswith(".output") and t.stored.columns.size % repairs.WHOLE == 0:
            treated[name] = t._replace(stored=repairs.re_paired(t.stored, t.most), folded=True)
    return treated


def split_into_two_products(subject: Subject, layout: Layout) -> Treatment:
    """Dense only: the columns stay in place, and what is cut off is a second product, in blocks."""
    return {
        name: t._replace(stored=split_in_two(t.linear.codes, t.most), layout=DENSE_AND_BLOCKS)
        for name, t in as_it_is(subject, layout).items()
    }


def _requantized(
    quantizer: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> Callable[[Subject, Layout], Treatment]:
    def remedy(subject: Subject, layout: Layout) -> Treatment:
        treated = {}
        for name, p in linears(subject.quantized.model).items():
            codes, scale = quantizer(subject.weights[name])
            linear = QuantizedLinear(codes, scale, p.input_scale, p.bias)
            treated[name] = Treated(linear, layout.store(codes), layout, subject.most[name])
        return treated

    return remedy


def seven_bit_activations(subject: Subject, layout: Layout) -> Treatment:
    """The scale of 8 bits is absmax / 127, from which the one of 7 follows."""
    treated = {}
    for name, t in as_it_is(subject, layout).items():
        scale = u7_scale(t.linear.input_scale * np.float32(127))
        treated[name] = t._replace(linear=t.linear._replace(input_scale=scale), most=U7_MOST, seven_bits=True)
    return treated


class Remedy(NamedTuple):
    """A line of the menu. treat: what is done, or change: what is done to the slots that ``after`` leaves; exact:
    whether no accumulator of the exact product changes; layouts: where it can be done."""

    name: str
    what: str
    exact: bool
    treat: Callable[[Subject, Layout], Treatment] | None = None
    change: Callable[..., Slots] | None = None
    after: str = "none"
    layouts: tuple[str, ...] = ("dense", "4x1")


ONLY_CONVOLUTIONS = "NNCF first_layer_only; POT first_layer and all: only convolutions"
MENU = (
    Remedy("none", "as it is", True, as_it_is),
    Remedy("first-layer", ONLY_CONVOLUTIONS, True, as_it_is),
    Remedy("nncf-ptq", "NNCF quantize(), OverflowFix.ENABLE", False, _requantized(reduced_range.nncf_ptq_enable)),
    Remedy("nncf-legacy", "NNCF training, overflow_fix", False, _requantized(reduced_range.nncf_legacy_enable)),
    Remedy("reduce-range", "ONNX Runtime reduce_range", False, _requantized(reduced_range.ort_reduce_range)),
    Remedy("u7", "7-bit activations", False, seven_bit_activations),
    Remedy("re-pairing", "columns in another order", True, change=repairs.re_paired),
    Remedy(
        "re-pairing-free",
        "the same, where the layer before can take it",
        True,
        re_paired_for_nothing,
        layouts=("dense",),
    ),
    Remedy("zero-pairing", "unsafe pairs beside zeros", True, change=repairs.zero_paired),
    Remedy("split", "weights beyond 64 in two parts", True, change=repairs.split),
    Remedy(
        "split-4x1",
        "the second part as a product of its own, in 4x1 blocks",
        True,
        split_into_two_products,
        layouts=("dense",),
    ),
    Remedy("re-pairing+zero", "the rest beside zeros", True, change=repairs.zero_paired, after="re-pairing"),
    Remedy("re-pairing+split", "the rest split", True, change=repairs.split, after="re-pairing"),
)


NOT_WRITTEN = {
    "none": "export or compress writes the file",
    "first-layer": "export or compress writes the file: BERT has no convolution",
    "u7": "there is no file: codes of both formats have 8 bits",
    "split-4x1": "there is no file: neither format holds a weight as two products",
}
"""Remedy -> why ``--fix`` does not write it."""


def offered(layout: Layout) -> dict[str, Remedy]:
    """The remedies of a layout, by name."""
    return {remedy.name: remedy for remedy in MENU if layout.name in remedy.layouts}


def _changed(t: Treated, change: Callable[..., Slots] | None) -> Treated:
    assert change is not None
    return t._replace(stored=t.layout.change(t.stored, partial(change, most=t.most)))


def treatment(subject: Subject, layout: Layout, name: str, done: dict[str, Treatment]) -> Treatment:
    """Every linear layer under a remedy. done: those of this subject and layout so far; what is new is added."""
    if name not in done:
        remedy = offered(layout)[name]
        if remedy.treat is not None:
            done[name] = remedy.treat(subject, layout)
        else:
            before = treatment(subject, layout, remedy.after, done)
            done[name] = {layer: _changed(t, remedy.change) for layer, t in before.items()}
    return done[name]
