"""A repaired model as a file.

    packed file    4x1 blocks, each block row in its own order: the same kernels read it, and nothing else changes
    ONNX           dense:  x -> QuantizeLinear -> Gather(codes, columns) -> DequantizeLinear -> MatMul -> Add

The Gather is left out where the columns are in place. A permutation that the layer before can take is folded into its
rows instead: ``intermediate`` for ``output``, ``v`` for ``attention_output``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.models import packed_file
from refimpl.models.bert import Model, map_linears
from refimpl.models.compress import Packed, PackedLinear
from refimpl.models.export import GraphOps, export_onnx
from refimpl.models.saturation.layouts import BLOCKS, DENSE, Layout, in_place
from refimpl.models.saturation.remedies import Treated, Treatment
from refimpl.models.saturation.subject import Subject
from refimpl.nn import NO_TAP, Tap
from refimpl.quant import ZERO_POINT, QuantizedLinear

ONNX = ".onnx"
PRODUCERS = {"output": "intermediate", "attention_output": "v"}
"""A layer whose input's order the rows of another decide -> that one."""


class SlotGraph(GraphOps):
    """The op table of export, for ``Treated`` layers too: what is not in place is gathered as codes."""

    def linear(self, x: str, p: Any, tap: Tap = NO_TAP) -> str:
        if not isinstance(p, Treated):
            return super().linear(x, p, tap)
        codes = tap("codes", self.quantize(x, p.linear.input_scale, np.uint8(ZERO_POINT)))
        if not in_place(p.stored):
            codes = self.node("Gather", codes, self.constant(p.stored.columns, np.int64), axis=-1)
        return self.coded_linear(codes, p.linear._replace(codes=p.stored.codes))


def layout_of(path: Path) -> Layout:
    """ONNX is dense; any other file is packed."""
    return DENSE if path.suffix == ONNX else BLOCKS


def write(subject: Subject, treatment: Treatment, path: Path) -> None:
    """ONNX or packed, as the treatment's layout has it."""
    if layout_of(path) is DENSE:
        export_onnx(folded(subject.quantized.model, treatment), path, SlotGraph)
    else:
        packed_file.save(packed(subject, treatment), path)


def packed(subject: Subject, treatment: Treatment) -> Packed:
    """With every weight as it is stored under a 4x1 treatment."""

    def change(name: str, layer: QuantizedLinear) -> PackedLinear:
        p = treatment[name].linear
        return PackedLinear(treatment[name].stored, p.weight_scale, p.input_scale, p.bias, p.compensation)

    return Packed(map_linears(subject.quantized.model, change), subject.quantized.tokenizer)


def folded(model: Model, treatment: Treatment) -> Model:
    """With ``Treated`` linear layers under a dense treatment, and plain ones where a permutation was folded away."""
    treated = map_linears(model, lambda name, layer: treatment[name])
    layers = list(treated.layers)
    for i, layer in enumerate(layers):
        for consumer, producer in PRODUCERS.items():
            t: Treated = getattr(layer, consumer)
            if t.folded:
                before: Treated = getattr(layer, producer)
                rows = _rows(before, t.stored.columns)
                codes = t.stored.codes
                plain = t._replace(linear=t.linear._replace(codes=codes), stored=DENSE.store(codes))
                changed: dict[str, Any] = {consumer: plain, producer: rows}
                layer = layer._replace(**changed)
        layers[i] = layer
    return replace(treated, layers=tuple(layers))


def unslotted(model: Model) -> Model:
    """The model that a ``folded`` one must equal: plain weights in place of slots."""
    return map_linears(model, lambda name, treated: treated.linear)


def _rows(t: Treated, order: np.ndarray) -> Treated:
    p = t.linear
    linear = p._replace(codes=p.codes[order], weight_scale=p.weight_scale[order], bias=p.bias[order])
    return t._replace(linear=linear, stored=t.stored._replace(codes=t.stored.codes[order]))
