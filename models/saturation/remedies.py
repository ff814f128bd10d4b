"""The remedies: what becomes of every linear layer under each, in a layout.

Exact ones change how a weight is stored and nothing else; lossy ones quantize the f32 weights, or the activations,
into a smaller range. ``MENU`` has them in the order of the table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.integer.pairs import FULL, Pairs
from refimpl.models.bert import linears
from refimpl.models.saturation.layouts import BLOCKS, Layout
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


Treatment = dict[str, Treated]


def as_it_is(subject: Subject, layout: Layout) -> Treatment:
    """Nothing done."""
    treated = {}
    for name, p in linears(subject.quantized.model).items():
        given = subject.stored.get(name) if layout is BLOCKS else None
        treated[name] = Treated(p, layout.store(p.codes) if given is None else given, layout, subject.most[name])
    return treated


def _repair(change: Callable[[Slots, Most], Slots]) -> Callable[[Subject, Layout], Treatment]:
    def remedy(subject: Subject, layout: Layout) -> Treatment:
        return {
            name: t._replace(stored=layout.change(t.stored, lambda slots, t=t: change(slots, t.most)))
            for name, t in as_it_is(subject, layout).items()
        }

    return remedy


def re_paired_for_nothing(subject: Subject, layout: Layout) -> Treatment:
    """Dense only: where the rows of the layer before can take the permutation; see ``refimpl.saturation.repairs``."""
    config = subject.quantized.model.config
    size = config.hidden // config.heads
    treated = as_it_is(subject, layout)
    for name, t in treated.items():
        if name.endswith(".attention_output") and size % 2 == 0:
            treated[name] = t._replace(stored=repairs.re_paired_within(t.stored, size, t.most), folded=True)
        elif name.endswith(".output") and t.stored.columns.size % repairs.WHOLE == 0:
            treated[name] = t._replace(stored=repairs.re_paired(t.stored, t.most), folded=True)
    return treated


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


def _both(second: Callable[[Slots, Most], Slots]) -> Callable[[Slots, Most], Slots]:
    return lambda slots, most: second(repairs.re_paired(slots, most), most)


class Remedy(NamedTuple):
    """exact: whether no accumulator of the exact product changes; layouts: where it can be done."""

    name: str
    treat: Callable[[Subject, Layout], Treatment]
    exact: bool
    layouts: tuple[str, ...] = ("dense", "4x1")
    what: str = ""


MENU = (
    Remedy("none", as_it_is, True, what="as it is"),
    Remedy("first-layer", as_it_is, True, what="NNCF first_layer_only; POT first_layer, all: only convolutions"),
    Remedy("nncf-ptq", _requantized(reduced_range.nncf_ptq_enable), False, what="NNCF quantize(), OverflowFix.ENABLE"),
    Remedy("nncf-legacy", _requantized(reduced_range.nncf_legacy_enable), False, what="NNCF training, overflow_fix"),
    Remedy("reduce-range", _requantized(reduced_range.ort_reduce_range), False, what="ONNX Runtime reduce_range"),
    Remedy("u7", seven_bit_activations, False, what="7-bit activations"),
    Remedy("free-re-pairing", re_paired_for_nothing, True, ("dense",), "columns permuted with the rows before"),
    Remedy("re-pairing", _repair(repairs.re_paired), True, what="columns permuted, codes gathered"),
    Remedy("zero-pairing", _repair(repairs.zero_paired), True, what="unsafe pairs beside zeros"),
    Remedy("split", _repair(repairs.split), True, what="weights beyond 64 in two parts"),
    Remedy("re-pairing+zero", _repair(_both(repairs.zero_paired)), True, what="re-pairing, the rest beside zeros"),
    Remedy("re-pairing+split", _repair(_both(repairs.split)), True, what="re-pairing, the rest split"),
)


def offered(layout: Layout) -> dict[str, Remedy]:
    """The remedies of a layout, by name."""
    return {remedy.name: remedy for remedy in MENU if layout.name in remedy.layouts}
