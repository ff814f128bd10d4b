"""What can go wrong with what a product is given: lost channels, operands taken for others, narrow floats, biases."""

from collections.abc import Callable
from functools import partial

import numpy as np

from refimpl.isa.bf16 import from_bf16, vcvtneps2bf16
from refimpl.models.compare.hypotheses_sums import INTEGER
from refimpl.models.compare.hypothesis import Hypothesis
from refimpl.models.compare.use import Rule, Use, known, moved, rounded_to, value
from refimpl.models.oracle.operator import EXACT, Approx
from refimpl.quant.affine import dequantize

FLOAT = ("MatMul", "Gemm")


def _tail(size: int, use: Use) -> Use | None:
    """The last K mod ``size`` products are lost."""
    return _kept(lambda k: k - k % size, use)


def _last(use: Use) -> Use | None:
    return _kept(lambda k: k - 1, use)


def _first(use: Use) -> Use | None:
    a, b = use.get("a"), use.get("b")
    assert a is not None
    assert b is not None
    return use.put(a=moved(a, lambda x: x[..., 1:]), b=moved(b, lambda x: x[..., 1:, :])) if _plain(use) else None


def _plain(use: Use) -> bool:
    a, b = value(use.get("a")), value(use.get("b"))
    return a.ndim > 1 and b.ndim > 1 and not use.call.get("transA", 0) and not use.call.get("transB", 0)


def _kept(keep: Callable[[int], int], use: Use) -> Use | None:
    a, b = use.get("a"), use.get("b")
    if a is None or b is None or not _plain(use):
        return None
    k = keep(a.value.shape[-1])
    if not 0 < k < a.value.shape[-1]:
        return None
    return use.put(a=moved(a, lambda x: x[..., :k]), b=moved(b, lambda x: x[..., :k, :]))


def _tail_of_codes(size: int, use: Use) -> Use | None:
    """The codes of the tail count as 0, but the correction by the zero point covers them."""
    a = use.get("a")
    zero = use.get("a_zero")
    if a is None or zero is None or not zero.value.any() or not _plain(use):
        return None
    k = a.value.shape[-1]
    return use.put(a=moved(a, lambda x: np.where(np.arange(k) < k - k % size, x, 0).astype(x.dtype)))


def _transposed(use: Use) -> Use | None:
    b = use.get("b")
    if b is None or b.value.ndim < 2 or b.value.shape[-1] != b.value.shape[-2]:
        return None
    return use.put(b=moved(b, lambda x: x.swapaxes(-1, -2)))


def _other_sign(name: str, use: Use) -> Use | None:
    """Codes read as of the other signedness: the same bits."""
    x = use.get(name)
    if x is None or x.value.dtype not in (np.uint8, np.int8):
        return None
    other = np.int8 if x.value.dtype == np.uint8 else np.uint8
    return use.put(**{name: moved(x, lambda part: part.astype(x.value.dtype).view(other))})


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounded to bf16."""
    return from_bf16(vcvtneps2bf16(x.astype(np.float32))).astype(np.float64)


def cut_to_bf16(x: np.ndarray) -> np.ndarray:
    """The upper 16 bits of f32."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32).astype(np.float64)


def to_f16(x: np.ndarray) -> np.ndarray:
    """Rounded to f16."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float64)


def _narrow_inputs(rule: Rule, use: Use) -> Use:
    a, b = use.get("a"), use.get("b")
    assert a is not None
    assert b is not None
    return use.put(a=rounded_to(a, rule), b=rounded_to(b, rule))


def _narrow_numbers(rule: Rule, use: Use) -> Use | None:
    """Codes become numbers, numbers are rounded, and multiplied as floats."""
    a, b = use.get("a"), use.get("b")
    if use.get("bias") is not None or a is None or b is None or not (a.known and b.known):
        return None
    numbers = []
    for name, x in (("a", a), ("b", b)):
        zero = use.get(f"{name}_zero")
        shift = np.zeros((), x.value.dtype) if zero is None else zero.value
        numbers.append(known(rule(dequantize(x.value, value(use.get(f"{name}_scale")), shift))))
    return use.becomes("MatMul", *numbers)


# --- bias ------------------------------------------------------------------------------------------------------------


def _bias(factor: float, use: Use) -> Use | None:
    bias = use.get("bias")
    if bias is None:
        return None
    return use.put(bias=Approx((bias.value * factor).astype(bias.value.dtype), EXACT if bias.known else bias.error * 2))


def _added(times: int, use: Use) -> Use | None:
    """A bias that an Add adds, ``times`` times."""
    i = bias_of(use)
    if i is None:
        return None
    bias, x = use.xs[i], use.xs[1 - i]
    assert bias is not None
    assert x is not None
    return use.becomes("Sum", x, *[bias] * times)


def bias_of(use: Use) -> int | None:
    """Which operand of an Add is a bias: a constant row beside a larger operand."""
    shapes = [x.value.shape for x in use.xs if x is not None]
    for i, fixed in enumerate(use.constant):
        if fixed and shapes[i] and max(shapes[i]) > 1 and np.prod(shapes[i]) < np.prod(shapes[1 - i]):
            return i
    return None


WORDS = {0.0: "missing bias", 2.0: "bias added twice", -1.0: "bias subtracted"}
PRECISIONS = {"bf16": to_bf16, "bf16 by cutting": cut_to_bf16, "f16": to_f16}

HYPOTHESES = [
    *(
        Hypothesis(f"last K mod {size} products dropped", (*INTEGER, *FLOAT), partial(_tail, size))
        for size in (4, 8, 16, 32, 64)
    ),
    *(
        Hypothesis(f"codes of the last K mod {size} channels dropped", INTEGER, partial(_tail_of_codes, size))
        for size in (4, 8, 16, 32, 64)
    ),
    Hypothesis("last product dropped", (*INTEGER, *FLOAT), _last),
    Hypothesis("first product dropped", (*INTEGER, *FLOAT), _first),
    Hypothesis("transposed right operand", (*INTEGER, *FLOAT), _transposed),
    Hypothesis("signedness of a", INTEGER, partial(_other_sign, "a")),
    Hypothesis("signedness of b", INTEGER, partial(_other_sign, "b")),
    *(Hypothesis(f"{name} inputs", FLOAT, partial(_narrow_inputs, rule)) for name, rule in PRECISIONS.items()),
    *(
        Hypothesis(f"{name} inputs", ("MatMulIntegerToFloat",), partial(_narrow_numbers, rule))
        for name, rule in PRECISIONS.items()
    ),
    *(
        Hypothesis(words, ("MatMulIntegerToFloat", "QGemm", "Gemm"), partial(_bias, factor))
        for factor, words in WORDS.items()
    ),
    Hypothesis("missing bias", ("Add",), partial(_added, 0)),
    Hypothesis("bias added twice", ("Add",), partial(_added, 2)),
]
