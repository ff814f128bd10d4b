"""Plausible wrong f32 arithmetic, row-wise kernels, epilogues and attention. tests/test_mutants.py runs them."""

import numpy as np
import test_2_f32 as instructions
import test_5_attention as attention
import test_5_epilogue as epilogue
import test_5_rowwise as rowwise
from mutants import Suite, half_away
from mutants_kernels import swap
from scipy.special import erf as exact_erf

from refimpl.isa import f32 as isa
from refimpl.isa import lookup
from refimpl.isa.convert import vcvtps2dq
from refimpl.kernels import attention as f32_attention
from refimpl.kernels import attention_u8s8 as integer_attention
from refimpl.kernels import epilogue as epilogue_parts
from refimpl.kernels import linear_gelu_4x1 as fused
from refimpl.kernels.rowwise import add_layernorm as add_layernorm_module
from refimpl.kernels.rowwise import erf as erf_module
from refimpl.kernels.rowwise import exp as exp_module
from refimpl.kernels.rowwise import gelu as gelu_module
from refimpl.kernels.rowwise import gelu_u8_table as table_module
from refimpl.kernels.rowwise import layernorm as layernorm_module
from refimpl.kernels.rowwise import quantize as quantize_module
from refimpl.kernels.rowwise import softmax as softmax_module
from refimpl.kernels.rowwise.add_layernorm import ADD_LAYERNORM
from refimpl.kernels.rowwise.gelu_u8_table import GELU_U8_TABLE
from refimpl.kernels.rowwise.layernorm import LAYERNORM
from refimpl.kernels.rowwise.quantize import QUANTIZE_ROWS
from refimpl.kernels.rowwise.softmax import SOFTMAX
from refimpl.quant import attention as quantized

F32 = np.float32


def rounded_twice(a, b, c):
    """The sum in f64 to nearest, then to f32."""
    return (a.astype(np.float64) * b + c).astype(F32)


def half_away_f32(x):
    return half_away(x.astype(np.float64)).astype(F32)


def zeros_beyond(array, at, count, others):
    """A masked load that fills the other lanes with zeros."""
    return isa.vmovups_load_first(array, at, count, isa.zero_f32())


def wide(function):
    """A part, on a stack of registers at once."""
    return lambda x: function(x.reshape(-1, 16)).reshape(-1)


INSTRUCTIONS = Suite(
    instructions.check_vfmadd,
    isa.vfmadd,
    {"rounded twice": rounded_twice, "not fused": lambda a, b, c: isa.vaddps(isa.vmulps(a, b), c)},
)


# --- functions -------------------------------------------------------------------------------------------------------


def exp_with(**changes):
    return wide(swap(exp_module.exp, **changes))


def erf_with(**changes):
    return wide(swap(erf_module.erf_sqrt_half, **changes))


def gelu_by(function):
    def gelu(x):
        with np.errstate(over="ignore"):
            return function(x.astype(np.float64)).astype(F32)

    return gelu


FUNCTIONS = [
    Suite(
        rowwise.check_exp,
        wide(exp_module.exp),
        {
            "ln 2 in one part": exp_with(MINUS_LN2_LOW=F32(0)),
            "one degree less": exp_with(Q4=F32(0)),
            "rounded down": exp_with(vrndscaleps=np.floor),
            "not clamped": exp_with(vmaxps=lambda x, low: x),
            "clamped too early": exp_with(LOWEST=F32(-87)),
            "not fused": exp_with(vfmadd=lambda a, b, c: isa.vaddps(isa.vmulps(a, b), c)),
        },
    ),
    Suite(
        rowwise.check_erf,
        wide(erf_module.erf_sqrt_half),
        {
            "as if all beyond 4.5 were 4.5": erf_with(LIMIT=F32(20)),
            "last coefficient too small": erf_with(P5=F32(4.3902e-08)),
            "a coefficient in another place": erf_with(P3=erf_module.P4, P4=erf_module.P3),
            "two digits of a coefficient exchanged": erf_with(Q1=F32(0.25224907)),
        },
    ),
    Suite(
        rowwise.check_gelu,
        wide(gelu_module.gelu),
        {
            "tanh": gelu_by(lambda x: x / 2 * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))),
            "sigmoid": gelu_by(lambda x: x / (1 + np.exp(-1.702 * x))),
            "without the square root of two": gelu_by(lambda x: x / 2 * (1 + exact_erf(x))),
        },
    ),
]


# --- rows ------------------------------------------------------------------------------------------------------------


def run(kernel, execution):
    return lambda *inputs: kernel.call(execution, *inputs)


def quantize_with(**changes):
    part = swap(quantize_module.quantize, **changes)
    return run(QUANTIZE_ROWS, swap(quantize_module.quantize_rows, quantize=part))


def zero_point_first(x, scale):
    shifted = np.clip(isa.vdivps(x, scale) + F32(128), F32(0), F32(255))
    return np.rint(shifted).astype(np.int32)


def softmax_with(**changes):
    return run(SOFTMAX, swap(softmax_module.softmax_rows, softmax_row=swap(softmax_module.softmax_row, **changes)))


def layernorm_with(**changes):
    row = swap(layernorm_module.layernorm_row, **changes)
    return run(LAYERNORM, swap(layernorm_module.layernorm_rows, layernorm_row=row))


def length_less_one(x, d, length, *rest):
    layernorm_module.layernorm_rows(x, d, F32(max(d - 1, 1)), *rest)


def exchanged(x, d, length, weight, bias, *rest):
    layernorm_module.layernorm_rows(x, d, length, bias, weight, *rest)


def looked_up(**changes):
    execution = swap(table_module.look_up, **changes)
    return lambda codes, *scales: GELU_U8_TABLE.call(execution, codes, table_module.table(*scales))


ROWS = [
    Suite(
        rowwise.check_quantize_rows,
        run(QUANTIZE_ROWS, quantize_module.quantize_rows.emulated),
        {
            "times the reciprocal": quantize_with(vdivps=lambda x, scale: x * (F32(1) / scale)),
            "ties away from zero": quantize_with(vcvtps2dq=lambda x: vcvtps2dq(half_away_f32(x))),
            "truncation": quantize_with(vcvtps2dq=lambda x: vcvtps2dq(np.trunc(x))),
            "-127 ... 127": quantize_with(MIN=F32(-127)),
            "not clamped below": quantize_with(vmaxps=lambda x, _: x),
            "zero point before rounding": run(
                QUANTIZE_ROWS, swap(quantize_module.quantize_rows, quantize=zero_point_first)
            ),
        },
    ),
    Suite(
        rowwise.check_softmax_rows,
        run(SOFTMAX, softmax_module.softmax_rows.emulated),
        {
            "maximum not subtracted": softmax_with(vsubps=lambda x, most: x),
            "lanes beyond the row are zeros": softmax_with(vmovups_load_first=zeros_beyond),
            "exp in base 2": softmax_with(exp=np.exp2),
            "sum of the last sixteen": softmax_with(vaddps=lambda total, e: e),
        },
    ),
    Suite(
        rowwise.check_layernorm_rows,
        run(LAYERNORM, layernorm_module.layernorm_rows.emulated),
        {
            "lanes beyond the row are zeros": layernorm_with(vmovups_load_first=zeros_beyond),
            "unbiased": run(LAYERNORM, length_less_one),
            "weight and bias exchanged": run(LAYERNORM, exchanged),
            "no square root": layernorm_with(vsqrtps=lambda x: x),
        },
    ),
    Suite(
        rowwise.check_add_layernorm_rows,
        run(ADD_LAYERNORM, add_layernorm_module.add_layernorm_rows.emulated),
        {
            "residual left out": run(
                ADD_LAYERNORM, lambda x, residual, *rest: layernorm_module.layernorm_rows(x, *rest)
            ),
            "residual subtracted": run(
                ADD_LAYERNORM, lambda x, residual, *rest: add_layernorm_module.add_layernorm_rows(x, -residual, *rest)
            ),
        },
    ),
    Suite(
        rowwise.check_gelu_u8_table,
        looked_up(),
        {
            "halves exchanged": looked_up(vpblendmb=lambda index, a, b: lookup.vpblendmb(index, b, a)),
            "128 entries": looked_up(vpblendmb=lambda index, a, b: a),
            "codes read as signed": looked_up(
                vpermi2b=lambda index, low, high: lookup.vpermi2b(index ^ np.uint8(128), high, low)
            ),
            "scales exchanged": lambda codes, x_scale, y_scale: looked_up()(codes, y_scale, x_scale),
        },
    ),
]


# --- epilogues -------------------------------------------------------------------------------------------------------


def epilogue_with(**changes):
    return epilogue.epilogue(swap(epilogue.rescales, **changes))


def rescale_with(**changes):
    part = swap(epilogue_parts.rescale, **changes)
    return epilogue_with(rescale=part, rescale_add=swap(epilogue_parts.rescale_add, rescale=part))


def truncated(acc):
    """f32 of an s32 rounded towards zero."""
    near = acc.astype(F32)
    return np.where(np.abs(near.astype(np.float64)) > np.abs(acc.astype(np.float64)), np.nextafter(near, F32(0)), near)


def requantize_with(**changes):
    return epilogue_with(requantize=swap(epilogue_parts.requantize, **changes))


def fused_with(**changes):
    execution = swap(fused.linear_gelu_4x1, **changes)
    return lambda *inputs: fused.call(execution, *inputs)


def fused_row(**changes):
    return fused_with(store_row=swap(fused.store_row, **changes))


def fused_codes(**changes):
    return fused_row(codes_of=swap(fused.codes_of, **changes))


def fused_packed(change):
    """The layer as packed, changed."""
    return lambda x, p, scale: fused.call(fused.linear_gelu_4x1.emulated, x, change(p), scale)


EPILOGUES = [
    Suite(
        epilogue.check_epilogue,
        epilogue.epilogue(epilogue.rescales.emulated),
        {
            "fused": epilogue_with(
                rescale=(fma := lambda acc, scale, bias: isa.vfmadd(acc.astype(F32), scale, bias)),
                rescale_add=lambda acc, scale, bias, residual: fma(acc, scale, bias) + residual,
            ),
            "bias before the scale": epilogue_with(
                rescale=lambda acc, scale, bias: (acc.astype(F32) + bias) * scale,
            ),
            "accumulator truncated": rescale_with(vcvtdq2ps=truncated),
            "residual before the bias": epilogue_with(
                rescale_add=lambda acc, scale, bias, residual: acc.astype(F32) * scale + (bias + residual)
            ),
            "ties away from zero": requantize_with(vcvtps2dq=lambda x: vcvtps2dq(half_away_f32(x))),
            "lower limit -127": requantize_with(MIN=F32(-127)),
            "zero point 127": requantize_with(ZERO=np.int32(127)),
        },
    ),
    Suite(
        epilogue.check_fused,
        fused_with(),
        {
            "no compensation": fused_packed(lambda p: p._replace(start=0 * p.start)),
            "compensation added": fused_packed(lambda p: p._replace(start=-p.start)),
            "no GELU": fused_codes(gelu=lambda y: y),
            "fused multiply-add and no bias": fused_codes(rescale=lambda acc, scale, bias: acc.astype(F32) * scale),
            "tokens in the order of lanes": fused_row(
                pack_tokens=lambda codes: np.concatenate(codes).clip(0, 255).astype(np.uint8)
            ),
            "registers 1 and 2 exchanged": fused_row(
                pack_tokens=lambda codes: epilogue_parts.pack_tokens((codes[0], codes[2], codes[1], codes[3]))
            ),
            "bias of the channel before": fused_packed(lambda p: p._replace(bias=np.roll(p.bias, 1))),
            "scales of the channel before": fused_packed(lambda p: p._replace(scale=np.roll(p.scale, 1))),
        },
    ),
]


# --- attention -------------------------------------------------------------------------------------------------------


def attention_with(**changes):
    execution = swap(f32_attention.attention, **changes)
    return lambda *inputs: f32_attention.call(execution, *inputs)


def attention_given(change):
    """The kernel with its first six arguments, q, kt, v, mask, scale, heads, changed."""

    def execution(*arguments):
        f32_attention.attention(*change(*arguments[:6]), *arguments[6:])

    return lambda *inputs: f32_attention.call(execution, *inputs)


def integer_attention_with(**changes):
    execution = swap(integer_attention.attention_u8s8, **changes)
    return lambda *inputs: integer_attention.call(execution, *inputs)


def integer_attention_start(change):
    def execution(q, k, start, *rest):
        integer_attention.attention_u8s8(q, k, change(start), *rest)

    return lambda *inputs: integer_attention.call(execution, *inputs)


def without_mask(scores, at, acc, scale, masks, count):
    f32_attention.store_scores(scores, at, acc, scale, 0 * masks, count)


ATTENTION = [
    Suite(
        attention.check_attention,
        attention_with(),
        {
            "mask left out": attention_with(store_scores=without_mask),
            "mask of the first sequence": attention_given(
                lambda q, kt, v, mask, *rest: (q, kt, v, np.resize(mask[: mask.size // 2], mask.size), *rest)
            ),
            "not scaled": attention_given(lambda q, kt, v, mask, scale, h: (q, kt, v, mask, F32(1), h)),
            "divided by E": attention_given(lambda q, kt, v, mask, scale, h: (q, kt, v, mask, scale * scale, h)),
            "heads exchanged": attention_given(lambda q, kt, v, *rest: (q, kt, v[::-1].copy(), *rest)),
            "softmax twice": attention_with(
                softmax_row=lambda x, at, d, out, to: (
                    softmax_module.softmax_row(x, at, d, out, to),
                    softmax_module.softmax_row(out, to, d, out, to),
                )
            ),
        },
    ),
    Suite(
        attention.check_attention_u8s8,
        integer_attention_with(),
        {
            "mask left out": integer_attention_with(store_scores=without_mask),
            "no compensation": integer_attention_start(lambda start: 0 * start),
            "compensation added": integer_attention_start(lambda start: -start),
            "probabilities truncated": integer_attention_with(
                quantize_row=swap(integer_attention.quantize_row, vcvtps2dq=lambda x: vcvtps2dq(np.trunc(x)))
            ),
            "probabilities times 256": integer_attention_with(
                quantize_row=swap(integer_attention.quantize_row, MOST=F32(256))
            ),
        },
    ),
    Suite(
        attention.check_quantize_probs,
        quantized.quantize_probs,
        {
            "truncation": lambda p: (p * F32(255)).astype(np.uint8),
            "times 256": lambda p: np.clip(np.rint(p * F32(256)), 0, 255).astype(np.uint8),
            "divided by the rounded scale": lambda p: np.rint(p / quantized.PROBS_SCALE).astype(np.uint8),
            "ties away from zero": lambda p: half_away((p * F32(255)).astype(np.float64)).astype(np.uint8),
        },
    ),
]

F32_KERNELS = [INSTRUCTIONS, *FUNCTIONS, *ROWS, *EPILOGUES, *ATTENTION]
