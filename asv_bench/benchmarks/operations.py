"""Row-wise kernels, attention and the fused layer on 128 tokens of BERT-base, one thread, each beside another way.

What stands beside is NumPy's form of the operation, from ``refimpl``; for the fused layer, the kernels that it is made
of. Every kernel is compared with its oracle, within its bound, before it is timed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.measuring import (
    Contestant,
    Samples,
    arguments,
    array_bytes,
    in_turns,
    operands,
    product_arguments,
    timed,
)
from refimpl import bounds
from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels import attention, attention_u8s8, linear_gelu_4x1
from refimpl.kernels.attention import Attention
from refimpl.kernels.attention_u8s8 import Heads, IntegerAttention
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.execution import fastest
from refimpl.kernels.layout import bsr4x1, panels
from refimpl.kernels.rowwise import softmax as softmax_kernel
from refimpl.kernels.rowwise.add_layernorm import ADD_LAYERNORM
from refimpl.kernels.rowwise.gelu import GELU
from refimpl.kernels.rowwise.gelu_u8_table import GELU_U8_TABLE, table
from refimpl.kernels.rowwise.layernorm import LAYERNORM
from refimpl.kernels.rowwise.quantize import QUANTIZE_ROWS
from refimpl.kernels.rowwise.record import RowKernel
from refimpl.kernels.rowwise.softmax import SOFTMAX
from refimpl.kernels.simd.threefold import KernelSource
from refimpl.nn.attention import attention_context, attention_scores
from refimpl.nn.gelu import gelu
from refimpl.nn.layernorm import layernorm
from refimpl.nn.params import Norm
from refimpl.nn.softmax import softmax
from refimpl.quant import attention as quantized
from refimpl.quant.linear import compensation, rescale
from refimpl.quant.symmetric import quantize_activation

TOKENS, HEADS, HEAD, WIDTHS = 128, 12, 64, (768, 3072)
M, K, DENSITY = 3072, 768, 0.2
SCALE = np.array(0.02, np.float32)
SECONDS = 1.0


class Duel(NamedTuple):
    """shape: of the kernel's result. beside: what ``other`` is. traffic: bytes of the kernel's arrays, each once."""

    shape: str
    kernel: Contestant
    beside: str
    other: Contestant
    elements: int
    traffic: int


def measured(duel: Duel, seconds: float) -> tuple[Samples, Samples]:
    """Both in turns, the kernel first."""
    with threadpool_limits(1):
        found = in_turns({"kernel": duel.kernel, "other": duel.other}, seconds)
    return found["kernel"], found["other"]


def prepared(
    source: KernelSource, call: Callable[..., Any], judge: Callable[[Any], None]
) -> tuple[Contestant, list[Any]]:
    """A kernel on the arguments that ``call`` makes, judged, and these arguments."""
    execution = source.compiled(fastest(source))
    given = arguments(execution, call, judge)
    return timed(lambda: execution(*given)), given


def require(right: Any, name: str) -> None:
    """Raises AssertionError unless all is right."""
    if not np.all(right):
        raise AssertionError(f"{name} and its oracle differ")


# --- rows ------------------------------------------------------------------------------------------------------------


def norm(d: int) -> Norm:
    """Weights about 1, biases about 0."""
    rng = np.random.default_rng(1)
    return Norm(rng.normal(1, 0.1, d).astype(np.float32), rng.normal(0, 0.1, d).astype(np.float32), 1e-12)


def numbers(n: int, d: int) -> np.ndarray:
    """f32 (n, d), normally distributed."""
    return np.random.default_rng(0).normal(0, 1, (n, d)).astype(np.float32)


ROWS: dict[str, tuple[RowKernel, Callable[[np.ndarray], tuple], Callable[..., np.ndarray]]] = {
    kernel.name: (kernel, inputs, reference)
    for kernel, inputs, reference in (
        (LAYERNORM, lambda x: (x, norm(x.shape[1])), layernorm),
        (
            ADD_LAYERNORM,
            lambda x: (x, np.roll(x, 1, axis=0), norm(x.shape[1])),
            lambda x, residual, p: layernorm(x + residual, p),
        ),
        (SOFTMAX, lambda x: (x,), softmax),
        (GELU, lambda x: (x,), gelu),
        (GELU_U8_TABLE, lambda x: (quantize_activation(x, SCALE), table(SCALE, SCALE)), GELU_U8_TABLE.oracle),
        (QUANTIZE_ROWS, lambda x: (x, SCALE), QUANTIZE_ROWS.oracle),
    )
}
"""Name -> kernel, its inputs from f32 numbers (N, D), and NumPy's form of it."""


def row_run(kernel: RowKernel, *inputs: Any) -> tuple[Contestant, list[Any]]:
    """``prepared`` within the kernel's bound."""
    kernel.validate(*inputs)

    def judge(result: np.ndarray) -> None:
        error = np.abs(result.astype(np.float64) - kernel.oracle(*inputs))
        require(error <= kernel.bound(*inputs), kernel.name)

    return prepared(kernel.source, lambda run: kernel.call(run, *inputs), judge)


def rows(name: str, n: int, d: int) -> Duel:
    """A row-wise kernel on n rows of d."""
    kernel, make, reference = ROWS[name]
    inputs = make(numbers(n, d))
    run, given = row_run(kernel, *inputs)
    return Duel(f"{n}x{d}", run, "NumPy", timed(lambda: reference(*inputs)), n * d, array_bytes(given))


# --- attention -------------------------------------------------------------------------------------------------------


def judge_probs(scores: np.ndarray, probs: np.ndarray, name: str) -> None:
    """Given the scores, softmax within its bound."""
    x, y = (array.reshape(-1, array.shape[-1]) for array in (scores, probs))
    require(np.abs(y - softmax(x.astype(np.float64))) <= softmax_kernel.bound(x), name)


def attention_f32() -> Duel:
    """All heads of one text in f32."""
    q, k, v = np.random.default_rng(0).normal(0, 1, (3, 1, HEADS, TOKENS, HEAD)).astype(np.float32)
    mask = np.ones((1, TOKENS), np.int64)
    attention.validate(q, k, v, mask)

    def judge(got: Attention) -> None:
        exact = attention_scores(q.astype(np.float64), k.astype(np.float64), mask)
        require(np.abs(got.scores - exact) <= bounds.attention_scores(q, k), "attention")
        judge_probs(got.scores, got.probs, "attention")
        exact = attention_context(got.probs.astype(np.float64), v.astype(np.float64))
        require(np.abs(got.context - exact) <= bounds.attention_context(got.probs, v), "attention")

    run, given = prepared(attention.attention, lambda run: attention.call(run, q, k, v, mask), judge)
    other = timed(lambda: attention_context(softmax(attention_scores(q, k, mask)), v))
    return Duel(f"{HEADS} heads x {TOKENS}x{HEAD}", run, "NumPy", other, v.size, array_bytes(given))


def attention_integer() -> Duel:
    """The same with INT8 products; what stands beside multiplies the integers in f64."""
    rng = np.random.default_rng(0)
    q = rng.integers(0, 256, (1, HEADS, TOKENS, HEAD), np.uint8)
    k, v = rng.integers(-127, 128, (2, *q.shape), np.int8)
    x, mask = Heads(q, k, v, SCALE, SCALE, SCALE), np.ones((1, TOKENS), np.int64)
    to_scores = quantized.scores_multiplier(SCALE, SCALE, HEAD)
    to_context = quantized.context_multiplier(SCALE)

    def scores() -> np.ndarray:
        return quantized.scaled_scores(quantized.integer_scores(q, k), to_scores, mask)

    def context(codes: np.ndarray) -> np.ndarray:
        return quantized.scaled_context(quantized.integer_context(codes, v), to_context)

    def judge(got: IntegerAttention) -> None:
        require(got.scores == scores(), "attention_u8s8")
        judge_probs(got.scores, got.probs, "attention_u8s8")
        require(got.codes == quantized.quantize_probs(got.probs), "attention_u8s8")
        require(got.context == context(got.codes), "attention_u8s8")

    run, given = prepared(attention_u8s8.attention_u8s8, lambda run: attention_u8s8.call(run, x, mask), judge)
    other = timed(lambda: context(quantized.quantize_probs(softmax(scores()))))
    return Duel(f"{HEADS} heads x {TOKENS}x{HEAD}", run, "NumPy", other, v.size, array_bytes(given))


# --- the fused layer -------------------------------------------------------------------------------------------------


def fused() -> Duel:
    """``linear_gelu_4x1`` beside its kernels one after the other; these leave out the rescaling between them, which no
    kernel does on its own."""
    u, w = operands(M, K, TOKENS, DENSITY)
    weight_scale, bias = np.full(M, 2**-9, np.float32), norm(M).bias
    sparse = bsr4x1.pack(w)
    packed = linear_gelu_4x1.pack(sparse, SCALE, weight_scale, bias)
    y = rescale(gemm_u8s8s32(u, w) - compensation(w), SCALE, weight_scale, bias)
    activated = GELU.run(GELU.fastest(), y)
    codes = QUANTIZE_ROWS.oracle(activated, SCALE)

    def judge(got: np.ndarray) -> None:
        require(panels.unpack(got, TOKENS) == codes, "linear_gelu_4x1")

    run, given = prepared(
        linear_gelu_4x1.linear_gelu_4x1, lambda run: linear_gelu_4x1.call(run, panels.pack(u), packed, SCALE), judge
    )
    product = BSGEMM_4X1.source.compiled(BSGEMM_4X1.fastest())
    multiply = timed(partial(product, *product_arguments(BSGEMM_4X1, product, u, w, sparse)))
    activate, quantize = row_run(GELU, y)[0], row_run(QUANTIZE_ROWS, activated, SCALE)[0]
    names = " + ".join(f"`{kernel.name}`" for kernel in (BSGEMM_4X1, GELU, QUANTIZE_ROWS))
    shape = f"{M}x{K}, {TOKENS} tokens, density {DENSITY:g}"
    return Duel(shape, run, names, lambda: multiply() + activate() + quantize(), codes.size, array_bytes(given))


# --- all -------------------------------------------------------------------------------------------------------------

ROW_DUELS: dict[str, Callable[[], Duel]] = {
    f"{name} {n}x{d}": partial(rows, name, n, d)
    for name in ROWS
    for n, d in ([(HEADS * TOKENS, TOKENS)] if name == SOFTMAX.name else [(TOKENS, width) for width in WIDTHS])
}
STAGED_DUELS: dict[str, Callable[[], Duel]] = {
    "attention": attention_f32,
    "attention_u8s8": attention_integer,
    "linear_gelu_4x1": fused,
}


class Operations:
    """Time of each kernel over that of what stands beside it."""

    params = (*ROW_DUELS, *STAGED_DUELS)
    param_names = ("operation",)
    unit = "ratio of times"

    def setup(self, operation: str) -> None:
        self.duel = (ROW_DUELS | STAGED_DUELS)[operation]()

    def track_time_ratio(self, operation: str) -> float:
        kernel, other = measured(self.duel, SECONDS)
        return kernel.best / other.best
