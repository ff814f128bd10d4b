"""Rung 7: the judge can fail. One fault at a time is planted in our own run of a tiny model; the judge must find it at
the tap where it arose, and nowhere before; where the rest of the run is right on the faulty values, nowhere after.
"""

import numpy as np
import pytest
import tiny
from scipy.special import erf

from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.models.bert import Batch, Model, forward, map_linears
from refimpl.models.judge import Exact, Finding, find, judge
from refimpl.nn import NO_TAP, REFERENCE, Linear, Recorder
from refimpl.quant import (
    QUANTIZED,
    Codes,
    QuantizedLinear,
    QuantizedTable,
    attention,
    dequantize_activation,
    integer_linear,
    quantize_activation,
    rescale,
    signed,
)

F32, INT8, INTEGER_ATTENTION = PRECISIONS = "f32", "INT8", "INT8 attention"


def run(name: str, precision: str, recorder: Recorder | None = None, **faulty) -> dict[str, np.ndarray]:
    """Our own taps of a tiny model, some operators replaced; accumulators left out, as no engine shows them."""
    ops = (REFERENCE if precision == F32 else QUANTIZED)._replace(**faulty)
    values = tiny.record(model_of(name, precision), tiny.batch(name), ops, recorder)
    return {tap: value for tap, value in values.items() if not tap.endswith(".acc")}


def model_of(name: str, precision: str) -> Model:
    stages = {F32: tiny.dense, INT8: tiny.quantized, INTEGER_ATTENTION: tiny.quantized_with_attention}
    return stages[precision](name).model


def found(name: str, precision: str, values: dict[str, np.ndarray]) -> dict[str, Finding]:
    """Only the taps with an element outside its bound, in the order of computation."""
    findings = judge(model_of(name, precision), tiny.batch(name), values)
    assert list(findings) == list(values)
    return {tap: finding for tap, finding in findings.items() if finding.outside}


class Planting(Recorder):
    """Changes what passes one tap; the pass goes on with the changed value."""

    def __init__(self, where, change, values=None, prefix=""):
        super().__init__(values, prefix)
        self.where, self.change = where, change

    def __call__(self, name, value):
        full = self.prefix + name
        return super().__call__(name, self.change(value.copy()) if full == self.where else value)

    def scope(self, name):
        return Planting(self.where, self.change, self.values, self.prefix + name + ".")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_right_run_has_no_findings(name, precision):
    assert found(name, precision, run(name, precision)) == {}


# --- operators that are wrong everywhere -----------------------------------------------------------------------------


def tanh_gelu(x):
    return (0.5 * x * (1 + np.tanh(np.float32(0.7978846) * (x + np.float32(0.044715) * x**3)))).astype(np.float32)


def gelu_of_sigmoid(x):
    return (x / (1 + np.exp(-1.702 * x))).astype(np.float32)


def gelu_with_a_short_constant(x):
    return (0.5 * x * (1 + erf(x * np.float32(0.707)))).astype(np.float32)


def large_eps(x, p):
    return REFERENCE.layernorm(x, p._replace(eps=p.eps * 1000))


def add_large_eps(x, residual, p):
    return REFERENCE.add_layernorm(x, residual, p._replace(eps=p.eps * 1000))


def unbiased_variance(x, residual, p):
    d = x.shape[-1]
    return REFERENCE.add_layernorm(x, residual, p._replace(weight=p.weight * np.float32(np.sqrt((d - 1) / d))))


def residual_forgotten(x, residual, p):
    return REFERENCE.layernorm(residual, p)


def one_head_unscaled(q, k, mask):
    scores, numbers = QUANTIZED.attention_scores(q, k, mask), (q.codes if isinstance(q, Codes) else q).shape[-1]
    scores[:, 1] *= np.where(mask[:, None, :] != 0, np.float32(numbers**0.5), np.float32(1))
    return scores


def mask_ignored(q, k, mask):
    return QUANTIZED.attention_scores(q, k, np.ones_like(mask))


def mild_mask(q, k, mask):
    """The -10000 of old BERT programs."""
    lowest = np.where(mask[:, None, None, :] != 0, np.float32(0), np.float32(-10000))
    return QUANTIZED.attention_scores(q, k, np.ones_like(mask)) + lowest


def mask_shifted(q, k, mask):
    return QUANTIZED.attention_scores(q, k, np.roll(mask, 1, axis=1))


def softmax_over_queries(x):
    return np.swapaxes(REFERENCE.softmax(np.swapaxes(x, -1, -2)), -1, -2)


def probs_in_half_precision(x):
    return REFERENCE.softmax(x).astype(np.float16).astype(np.float32)


def heads_merged_in_the_wrong_order(x):
    return REFERENCE.merge_heads(x[:, ::-1])


def positions_from_one(ids, table):
    return np.roll(REFERENCE.position_embedding(ids, np.roll(table, -1, axis=0)), 0)


def mean_over_padding(x, mask):
    return REFERENCE.mean_pool(x, np.ones_like(mask))


def last_token(x):
    return x[:, -1]


def bf16(x):
    """Cut to 8 bits of mantissa, as engines do that were not asked for f32."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def bf16_linear(x, p, tap=NO_TAP):
    return REFERENCE.linear(bf16(x), Linear(bf16(p.weight), p.bias))


OPERATORS = [
    ("bert_classification", "layer.0.gelu", {"gelu": tanh_gelu}),
    ("bert_classification", "layer.0.gelu", {"gelu": gelu_of_sigmoid}),
    ("bert_classification", "layer.0.gelu", {"gelu": gelu_with_a_short_constant}),
    ("bert_question_answering", "embeddings", {"layernorm": large_eps}),
    ("bert_question_answering", "layer.0.attention_norm", {"add_layernorm": add_large_eps}),
    ("bert_classification", "layer.0.attention_norm", {"add_layernorm": unbiased_variance}),
    ("bert_classification", "layer.0.attention_norm", {"add_layernorm": residual_forgotten}),
    ("bert_classification", "layer.0.scores", {"attention_scores": one_head_unscaled}),
    ("bert_classification", "layer.0.scores", {"attention_scores": mask_ignored}),
    ("bert_classification", "layer.0.scores", {"attention_scores": mild_mask}),
    ("bert_classification", "layer.0.scores", {"attention_scores": mask_shifted}),
    ("bert_classification", "layer.0.probs", {"softmax": softmax_over_queries}),
    ("bert_classification", "layer.0.probs", {"softmax": probs_in_half_precision}),
    ("bert_classification", "layer.0.context", {"merge_heads": heads_merged_in_the_wrong_order}),
    ("bert_classification", "embedding_sum", {"position_embedding": positions_from_one}),
    ("bert_classification", "layer.0.q", {"linear": bf16_linear}),
    ("bert_classification", "pooler", {"tanh": lambda x: np.clip(x, -1, 1)}),
    ("bert_classification", "pooler.linear", {"first_token": last_token}),
    ("distilbert_classification", "relu", {"relu": np.abs}),
    ("distilbert_bare", "mean_pool", {"mean_pool": mean_over_padding}),
    ("distilbert_bare", "output", {"l2_normalize": lambda x: x / np.abs(x).max(-1, keepdims=True)}),
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "where", "faulty"), OPERATORS)
def test_a_wrong_operator_is_found_at_every_place_where_it_ran_and_nowhere_else(name, where, faulty, precision):
    if precision != F32 and "linear" in faulty:
        pytest.skip("the encoder's linear layers are integer ones there")
    right = list(run(name, precision))
    outside = list(found(name, precision, run(name, precision, **faulty)))
    kinds = {where.removeprefix("layer.0.")} | ({"output_norm"} if "add_layernorm" in faulty else set())
    assert outside[0] == where
    assert outside == [tap for tap in right if tap in outside]
    if "linear" not in faulty:
        assert {tap.split(".", 2)[-1] if tap.startswith("layer.") else tap for tap in outside} <= kinds


# --- parameters that are wrong in one place --------------------------------------------------------------------------


def with_layer(model: Model, where: str, change) -> Model:
    return map_linears(model, lambda name, layer: change(layer) if name == where else layer)


@pytest.mark.parametrize("where", ["layer.0.v", "layer.1.intermediate", "layer.1.attention_output"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fault", ["bias missing", "transposed", "one weight"])
def test_a_wrong_parameter_is_found_at_its_layer_only(where, precision, fault):
    name = "bert_classification"
    field = "weight" if precision == F32 else "codes"
    if fault == "transposed" and where.endswith("intermediate"):
        pytest.skip("not square")

    def change(layer):
        if fault == "bias missing":
            return layer._replace(bias=0 * layer.bias)
        array = getattr(layer, field).copy()
        if fault == "transposed":
            return layer._replace(**{field: np.ascontiguousarray(array.T)})
        at = np.unravel_index(np.abs(array.astype(float)).argmax(), array.shape)
        array[at] = -array[at]
        return layer._replace(**{field: array})

    wrong = with_layer(model_of(name, precision), where, change)
    values = tiny.record(wrong, tiny.batch(name), REFERENCE if precision == F32 else QUANTIZED)
    values = {tap: value for tap, value in values.items() if not tap.endswith(".acc")}
    assert list(found(name, precision, values)) == [where]


# --- single values ---------------------------------------------------------------------------------------------------


PLACES = [
    *("embedding_sum", "embeddings", "layer.0.k", "layer.0.scores", "layer.0.probs", "layer.1.context"),
    *("layer.1.attention_norm", "layer.1.gelu", "layer.1.output", "layer.1.output_norm", "pooler", "output"),
]


def first_element(value):
    def change(array):
        array[(0,) * array.ndim] = value(array[(0,) * array.ndim])
        return array

    return change


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_element_off_by_a_little_is_found_there_only(where, precision):
    """By a thousandth of the largest value: far above rounding, far below what a comparison of outputs would notice."""
    name = "bert_classification"
    size = np.abs(run(name, precision)[where][..., :1]).max() if where.endswith("scores") else None
    step = np.float32(1e-3) * (size if size and size < 1e3 else np.abs(run(name, F32)["embeddings"]).max())
    values = run(name, precision, Planting(where, first_element(lambda x: x + step)))
    outside = found(name, precision, values)
    assert list(outside) == [where]
    assert outside[where].at == (0,) * values[where].ndim
    assert outside[where].outside == 1
    assert outside[where].worst > 1


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_element_that_is_not_finite_is_found_first(where, precision, value):
    """The rest of the run is the right one, so more may be found after it, never before."""
    name = "bert_classification"
    values = run(name, precision)
    values[where] = first_element(lambda x: value)(values[where].copy())
    outside = found(name, precision, values)
    assert next(iter(outside)) == where
    assert outside[where].outside == 1
    assert outside[where].at == (0,) * values[where].ndim
    assert outside[where].worst == np.inf


@pytest.mark.parametrize("value", [np.nan, 0.0, -np.inf])
def test_a_masked_score_that_is_wrong(value):
    name = "bert_classification"
    values = run(name, F32)
    scores = values["layer.0.scores"] = values["layer.0.scores"].copy()
    assert tiny.batch(name).mask[2, -1] == 0
    scores[2, 0, 0, -1] = value
    outside = found(name, F32, values)
    assert outside["layer.0.scores"].outside == 1
    assert outside["layer.0.scores"].at == (2, 0, 0, values["layer.0.scores"].shape[-1] - 1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tap", ["output_norm", "v", "probs"])
def test_a_stale_value_is_found(precision, tap):
    """A buffer that still holds the last layer's value: what follows was computed from the right one."""
    name = "bert_classification"
    values = run(name, precision)
    values[f"layer.1.{tap}"] = values[f"layer.0.{tap}"]
    assert next(iter(found(name, precision, values))) == f"layer.1.{tap}"


def test_a_value_of_another_shape():
    name = "bert_classification"
    values = run(name, F32)
    values["layer.0.q"] = values["layer.0.q"][:, :-1]
    with pytest.raises(ValueError, match=r"layer\.0\.q has shape \(3, 6, 32\); need \(3, 7, 32\)"):
        judge(model_of(name, F32), tiny.batch(name), values)


def test_taps_that_are_not_shown_are_computed():
    """Only what is shown is judged, and what follows a hidden tap is judged from our own exact value of it."""
    name = "bert_classification"
    values = run(name, F32, gelu=tanh_gelu)
    shown = {tap: value for tap, value in values.items() if tap in ("layer.0.intermediate", "layer.0.output")}
    findings = judge(model_of(name, F32), tiny.batch(name), shown)
    assert list(findings) == ["layer.0.intermediate", "layer.0.output"]
    assert findings["layer.0.output"].outside
    assert not findings["layer.0.intermediate"].outside


# --- integers --------------------------------------------------------------------------------------------------------


CODES = ["q.codes", "output.codes", "attention_output.codes", "q_codes", "k_codes", "v_codes", "probs_codes"]


@pytest.mark.parametrize("where", [f"layer.{i % 2}.{tap}" for i, tap in enumerate(CODES)])
@pytest.mark.parametrize("step", [1, -1])
def test_one_code_off_by_one_is_found_there_only(where, step):
    name = "distilbert_bare"

    def change(codes):
        at = np.unravel_index(((codes > 0) & (codes < 255)).argmax(), codes.shape)
        codes[at] = int(codes[at]) + step
        return codes

    outside = found(name, INTEGER_ATTENTION, run(name, INTEGER_ATTENTION, Planting(where, change)))
    assert list(outside) == [where]
    assert (outside[where].outside, outside[where].different) == (1, 1)


class TieAway(Planting):
    """Puts one element of a layer's input on a tie, and codes it away from zero."""

    def __init__(self, scale, values=None, prefix=""):
        super().__init__("", None, values, prefix)
        self.scale = scale

    def __call__(self, name, value):
        value = value.copy()
        if self.prefix + name == "layer.0.context":
            value[0, 0, :2] = [0.5 * self.scale, -0.5 * self.scale]
        if self.prefix + name == "layer.0.attention_output.codes":
            assert value[0, 0, :2].tolist() == [128, 128]
            value[0, 0, :2] = [129, 127]
        return Recorder.__call__(self, name, value)

    def scope(self, name):
        return TieAway(self.scale, self.values, self.prefix + name + ".")


def test_ties_away_from_zero_are_counted():
    """Such a code is a neighbour that x / scale may be rounded to: not outside, but not ours."""
    name = "bert_classification"
    model, batch = model_of(name, INT8), tiny.batch(name)
    values = run(name, INT8, TieAway(model.layers[0].attention_output.input_scale))
    findings = judge(model, batch, values)
    assert {tap for tap, finding in findings.items() if finding.outside} == {"layer.0.context"}  # the tie was put there
    different = {tap: finding.different for tap, finding in findings.items() if finding.different}
    assert different == {"layer.0.attention_output.codes": 2}


def wrong_linear(fault):
    """The quantized linear layer with one mistake."""

    def linear(x, p, tap=NO_TAP):
        if not isinstance(p, QuantizedLinear):
            return QUANTIZED.linear(x, p, tap)
        return fault(x, p, tap)

    return linear


def saturating(x, p, tap):
    return integer_linear(x, p, lambda u: gemm_u8s8s32_pair_saturating(u, p.codes), tap)


def uncompensated(x, p, tap):
    return integer_linear(x, p, lambda u: gemm_u8s8s32(u, p.codes) + p.compensation, tap)


def scales_swapped(x, p, tap):
    return QUANTIZED.linear(x, p._replace(weight_scale=p.weight_scale[::-1]), tap)


def one_scale_for_all_rows(x, p, tap):
    return QUANTIZED.linear(x, p._replace(weight_scale=np.full_like(p.weight_scale, p.weight_scale.max())), tap)


def bias_before_scaling(x, p, tap):
    """The bias rounded to a step of the accumulator, as engines with an s32 bias do."""
    step = p.input_scale * p.weight_scale
    return QUANTIZED.linear(x, p._replace(bias=np.rint(p.bias / step) * step), tap)


def zero_point_127(x, p, tap):
    u = tap("codes", quantize_activation(x, p.input_scale) - np.uint8(1))
    acc = gemm_u8s8s32(u.reshape(-1, u.shape[-1]), p.codes) - p.compensation
    return rescale(acc.reshape(*x.shape[:-1], -1), p.input_scale, p.weight_scale, p.bias)


def codes_cut_toward_zero(x, p, tap):
    u = tap("codes", (np.clip(np.trunc(x / p.input_scale), -128, 127) + 128).astype(np.uint8))
    acc = gemm_u8s8s32(u.reshape(-1, u.shape[-1]), p.codes) - p.compensation
    return rescale(acc.reshape(*x.shape[:-1], -1), p.input_scale, p.weight_scale, p.bias)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (saturating, "layer.0.q"),
        (uncompensated, "layer.0.q"),
        (scales_swapped, "layer.0.q"),
        (one_scale_for_all_rows, "layer.0.q"),
        (bias_before_scaling, "layer.0.q"),
        (zero_point_127, "layer.0.q.codes"),
        (codes_cut_toward_zero, "layer.0.q.codes"),
    ],
)
def test_a_wrong_integer_layer_is_found_at_its_codes_or_at_its_result(fault, where):
    name = "bert_question_answering"
    outside = list(found(name, INT8, run(name, INT8, linear=wrong_linear(fault))))
    assert outside[0] == where
    assert {tap.endswith(".codes") for tap in outside} == {where.endswith(".codes")}


def test_a_wrong_scale_of_the_word_table_is_found():
    def reversed_scales(ids, table):
        if isinstance(table, QuantizedTable):
            table = table._replace(scale=table.scale[::-1])
        return QUANTIZED.embedding(ids, table)

    outside = found("distilbert_bare", INT8, run("distilbert_bare", INT8, embedding=reversed_scales))
    assert list(outside) == ["embedding_sum"]


# --- integer attention -----------------------------------------------------------------------------------------------


def scales_swapped_in_all(q, k, v, scales, tap):
    return QUANTIZED.attention_operands(q, k, v, scales._replace(k=scales.v, v=scales.k), tap)


def scales_swapped_after_coding(q, k, v, scales, tap):
    q, k, v = QUANTIZED.attention_operands(q, k, v, scales, tap)
    return q, k._replace(scale=v.scale), v._replace(scale=k.scale)


def products_with(change):
    """Right codes; the products are given others."""

    def operands(q, k, v, scales, tap):
        return change(*QUANTIZED.attention_operands(q, k, v, scales, tap))

    return operands


def one_lower(x):
    """The compensation of a zero point of 127."""
    return x._replace(codes=np.maximum(x.codes, 1) - np.uint8(1))


def unsigned(x):
    """A u8 code taken for s8, where s8 was meant: its sign is that of its top bit."""
    return x._replace(codes=x.codes ^ np.uint8(128))


def saturating_scores(q, k, mask):
    acc = [
        [gemm_u8s8s32_pair_saturating(a, b) for a, b in zip(*rows, strict=True)]
        for rows in zip(q.codes, signed(k.codes), strict=True)
    ]
    start = 128 * signed(k.codes).sum(-1, dtype=np.int32)
    multiplier = attention.scores_multiplier(q.scale, k.scale, q.codes.shape[-1])
    return attention.scaled_scores(np.array(acc) - start[:, :, None], multiplier, mask)


def scores_in_floats(q, k, mask):
    """Codes brought back to f32 before the product, as engines do that found no integer kernel."""
    return REFERENCE.attention_scores(*(dequantize_activation(*x) for x in (q, k)), mask)


def probs_with(code):
    def context(probs, v, tap):
        codes = tap("probs_codes", code(probs).astype(np.uint8))
        return attention.scaled_context(
            attention.integer_context(codes, signed(v.codes)), attention.context_multiplier(v.scale)
        )

    return context


def probs_in_floats(probs, v, tap):
    tap("probs_codes", attention.quantize_probs(probs))
    return REFERENCE.attention_context(probs, dequantize_activation(*v))


def context_times_256(probs, v, tap):
    return QUANTIZED.attention_context(probs, v, tap) * np.float32(255 / 256)


@pytest.mark.parametrize(
    ("kinds", "faulty"),
    [
        (["k_codes", "v_codes", "scores", "context"], {"attention_operands": scales_swapped_in_all}),
        (["scores", "context"], {"attention_operands": scales_swapped_after_coding}),
        (["scores"], {"attention_operands": products_with(lambda q, k, v: (one_lower(q), k, v))}),
        (["scores"], {"attention_operands": products_with(lambda q, k, v: (unsigned(q), k, v))}),
        (["scores"], {"attention_operands": products_with(lambda q, k, v: (q, unsigned(k), v))}),
        (["context"], {"attention_operands": products_with(lambda q, k, v: (q, k, unsigned(v)))}),
        (["scores"], {"attention_scores": saturating_scores}),
        (["scores"], {"attention_scores": scores_in_floats}),
        (["probs_codes"], {"attention_context": probs_with(lambda probs: np.floor(probs * 255))}),
        (["probs_codes"], {"attention_context": probs_with(lambda probs: np.minimum(np.rint(probs * 256), 255))}),
        (["context"], {"attention_context": probs_in_floats}),
        (["context"], {"attention_context": context_times_256}),
    ],
)
def test_wrong_integer_attention_is_found_where_it_is_wrong_and_nowhere_else(kinds, faulty):
    name = "bert_classification"
    outside = found(name, INTEGER_ATTENTION, run(name, INTEGER_ATTENTION, **faulty))
    assert list(dict.fromkeys(tap.split(".", 2)[2] for tap in outside)) == kinds


# --- one comparison --------------------------------------------------------------------------------------------------


def test_find_counts_what_is_outside():
    value = np.array([1.0, 2.0, 3.5, np.nan], np.float32)
    finding = find(value, Exact(np.array([1.0, 2.5, 3.0, 4.0]), np.array([0.0, 1.0, 0.25, 1.0])))
    assert finding[:4] == (np.inf, (3,), 2, 4)
    finding = find(value[:3], Exact(np.array([1.0, 2.5, 3.0]), np.array([0.0, 1.0, 0.25])))
    assert finding == Finding(2.0, (2,), 1, 3, 0)
    assert find(value[:1], Exact(np.array([1.0]), np.zeros(()))) == Finding(0.0, (0,), 0, 1, 0)
    assert find(value[:1], Exact(np.array([2.0]), np.zeros(()))).outside == 1
    unbounded = find(value, Exact(np.zeros(4), np.full(4, np.inf)))
    assert unbounded[:4] == (np.inf, (3,), 1, 4)


def test_a_batch_of_one_token():
    """No padding, one key: softmax is exactly 1."""
    model = tiny.dense("distilbert_bare").model
    batch = Batch(*(array[:1, :1] for array in tiny.batch("distilbert_bare")))
    recorder = Recorder()
    forward(model, batch, tap=recorder)
    assert (recorder.values["layer.0.probs"] == 1).all()
    assert not any(finding.outside for finding in judge(model, batch, recorder.values).values())


# --- what an engine keeps to itself ----------------------------------------------------------------------------------

HIDDEN = ["layer.0.scores", "layer.0.probs", "layer.0.probs_codes"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)
def test_a_right_run_has_no_findings_whatever_it_shows(name, precision):
    values, rng = run(name, precision), np.random.default_rng(0)
    for share in (0.2, 0.5, 0.8):
        for _ in range(3):
            shown = {tap: value for tap, value in values.items() if rng.random() < share or tap == "output"}
            assert found(name, precision, shown) == {}
    assert np.isfinite(values["output"]).all()


def one_code_apart(name, place):
    """A run in which one code of a probability is the next one, and that probability's distance from where two codes
    meet, of 255; ``place`` chooses among these distances."""
    model, rng = model_of(name, INTEGER_ATTENTION), np.random.default_rng(0)
    whole = tiny.batch(name)
    for _ in range(100):
        batch = whole._replace(ids=rng.integers(5, tiny.TOKENS, whole.ids.shape))
        probs = 255 * tiny.record(model, batch, QUANTIZED)["layer.0.probs"].astype(np.float64)
        distance = np.abs(probs - np.floor(probs) - 0.5)
        at = np.unravel_index(place(distance), probs.shape)
        if place is np.argmax or distance[at] < 1e-5:
            break

    def other(codes):
        codes[at] = codes[at] + 1 if codes[at] <= probs[at] else codes[at] - 1
        return codes

    values = tiny.record(model, batch, QUANTIZED, Planting("layer.0.probs_codes", other))
    return batch, {tap: value for tap, value in values.items() if not tap.endswith(".acc")}, distance[at]


def outside(batch, values):
    return [
        tap for tap, f in judge(model_of("bert_classification", INTEGER_ATTENTION), batch, values).items() if f.outside
    ]


def test_a_code_that_may_be_either_is_no_fault_and_another_is():
    """Shown, it is judged; hidden, what follows is judged as if it were the one or the other, unless it cannot be."""
    batch, values, distance = one_code_apart("bert_classification", np.argmin)
    assert distance < 1e-5
    assert outside(batch, values) == []
    shown = {tap: value for tap, value in values.items() if tap not in HIDDEN}
    assert outside(batch, shown) == []
    batch, values, distance = one_code_apart("bert_classification", np.argmax)
    assert distance > 0.4
    assert outside(batch, values) == ["layer.0.probs_codes"]
    shown = {tap: value for tap, value in values.items() if tap not in HIDDEN}
    assert "layer.0.context" in outside(batch, shown)
