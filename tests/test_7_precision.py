"""Rung 7: layers in f32 and BF16, in the engine. Oracles: the judge; the reference's BF16 layer, to the bit; itself."""

import numpy as np
import pytest
from test_1_arithmetic import equal, rng
from test_2_registers import NEEDS_JIT
from test_7_session import check_batch, judged
from tiny import ONE_OF_EACH_HEAD, calibrated, dense, quantized, quantized_with_attention, record, rows

from refimpl import bounds_bf16
from refimpl.isa.bf16 import from_bf16, vcvtneps2bf16
from refimpl.models import compress, precision
from refimpl.models.bert import linears
from refimpl.models.embedded import demo_model
from refimpl.models.export import export_onnx
from refimpl.models.runtime.session import Session
from refimpl.models.terminal import read_texts
from refimpl.nn.linear_bf16 import Bf16Linear, linear_bf16, round_weight
from refimpl.nn.params import Linear
from refimpl.quant import QUANTIZED

NAME = ONE_OF_EACH_HEAD[0]
STAGES = {"f32": lambda stage: stage, "bf16": precision.in_bf16}
PARTS = [("q", "k", "v"), ("attention_output",), ("intermediate",), ("output",)]
on_stages = pytest.mark.parametrize("stage", STAGES)


# --- the layer -------------------------------------------------------------------------------------------------------


def test_the_layer_is_within_its_bound():
    for n, m, k in ((1, 1, 1), (3, 5, 7), (4, 6, 300)):
        p = Linear(rng(k).normal(0, 1, (m, k)).astype(np.float32), rng(1).normal(0, 9, m).astype(np.float32))
        x, rounded = rng(2).normal(1, 1, (2, n, k)).astype(np.float32), round_weight(p)
        a, w = (from_bf16(vcvtneps2bf16(matrix)).astype(np.float64) for matrix in (x, p.weight))
        got = linear_bf16(x, rounded)
        bound = bounds_bf16.linear_bf16(vcvtneps2bf16(x.reshape(-1, k)), rounded.weight, p.bias).reshape(got.shape)
        assert (np.abs(got - (a @ w.T + p.bias)) <= bound).all()
        assert k == 1 or (np.abs(x @ p.weight.T + p.bias - got) > bound).any()  # what is not rounded
        equal(QUANTIZED.linear(x, rounded), got)
    with pytest.raises(TypeError, match="x has dtype float64; need float32"):
        linear_bf16(x.astype(np.float64), rounded)
    with pytest.raises(ValueError, match=r"bias has shape \(5,\); need \(6,\)"):
        linear_bf16(x, Bf16Linear(rounded.weight, p.bias[1:]))


# --- whole models ----------------------------------------------------------------------------------------------------


@NEEDS_JIT
@on_stages
@pytest.mark.parametrize("name", ONE_OF_EACH_HEAD)
def test_small_models_are_within_the_bounds(name, stage):
    made = STAGES[stage](dense(name))
    session = Session(made)
    for one in rows(name):
        taps, _ = judged(made.model, session, one)
        assert not [tap for tap in taps if tap.endswith("codes")]


@NEEDS_JIT
def test_the_first_bf16_product_has_the_bits_of_the_reference():
    made = precision.in_bf16(dense(NAME))
    for one in rows(NAME):
        taps, _ = judged(made.model, Session(made), one)
        for part in "qkv":
            equal(taps[f"layer.0.{part}"], linear_bf16(taps["embeddings"], getattr(made.model.layers[0], part)))
        assert np.abs(taps["output"] - record(dense(NAME).model, one)["output"]).max() > 1e-6


@NEEDS_JIT
@on_stages
def test_a_real_model_is_within_the_bounds(stage):
    loaded = compress.load(demo_model())
    texts = compress.encode_each(loaded.tokenizer, read_texts(None)[:6])
    made = STAGES[stage](loaded)
    session = Session(made)
    for one in texts[:2]:
        taps, _ = judged(made.model, session, one)
        assert len(taps) == 6 * 7 + 4
    check_batch(session, texts)
    if stage == "bf16":
        cosine = (session(*texts[0]) * Session(loaded)(*texts[0])).sum()
        assert 0.999 < cosine < 0.9999999


# --- single layers ---------------------------------------------------------------------------------------------------


@NEEDS_JIT
@on_stages
@pytest.mark.parametrize("parts", [(0,), (1,), (2,), (3,), (0, 1, 2, 3)])
@pytest.mark.parametrize("quantizer", [quantized, quantized_with_attention])
def test_layers_beside_int8_ones(parts, quantizer, stage):
    """Any products of a layer, with attention of both kinds."""
    kept = [f"layer.0.{name}" for part in parts for name in PARTS[part]]
    made = STAGES[stage](precision.keep(quantizer(NAME), calibrated(NAME), kept))
    packed = compress.pack(made)
    session = Session(packed)
    for one in rows(NAME):
        taps, _ = judged(made.model, session, one)
        assert not {f"{name}.codes" for name in kept} & taps.keys()
    equal(Session(compress.pack(compress.unpack(packed)))(*one), session(*one))


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a linear layer is Bf16Linear; need QuantizedLinear or Linear to export"):
        export_onnx(precision.in_bf16(dense(NAME)).model, tmp_path / "model.onnx")


def test_names():
    made = precision.keep(quantized(NAME), calibrated(NAME), ["layer.0.q", "layer.1.output"])
    kinds = {
        name: type(layer).__name__ for name, layer in linears(precision.in_bf16(made, ["layer.0.q"]).model).items()
    }
    assert (kinds.pop("layer.0.q"), kinds.pop("layer.1.output")) == ("Bf16Linear", "Linear")
    assert set(kinds.values()) == {"QuantizedLinear"}
    with pytest.raises(ValueError, match=r"layer.0: q, k and v differ in precision; need one for all"):
        Session(compress.pack(made))
    with pytest.raises(ValueError, match=r"names has 'q'; need one of layer.0.q, layer"):
        precision.keep(quantized(NAME), calibrated(NAME), ["q"])
    with pytest.raises(ValueError, match=r"names has 'layer.0.k'; need one of layer.0.q, layer.1.output"):
        precision.in_bf16(made, ["layer.0.k"])
    with pytest.raises(ValueError, match=r"names has 'layer.0.k'; need one of none: no layer is in f32"):
        precision.in_bf16(quantized(NAME), ["layer.0.k"])
