"""Matrix products in floats. Error of a sum of K products: gamma(K) |a| |b|, and what the operands' errors add."""

import math

import numpy as np

from refimpl import bounds, propagation
from refimpl.models.oracle.operator import TINY, Approx, Call, Operator, affordable, rounded
from refimpl.models.oracle.ops.elementwise import float_only, same_types


def _result(a: np.ndarray, b: np.ndarray) -> None:
    same_types((a, b))
    if a.ndim < 1 or b.ndim < 1 or a.shape[-1] != b.shape[max(0, b.ndim - 2)]:
        raise ValueError(f"the operands have the shapes {a.shape} and {b.shape}, which do not match")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    affordable([*batch, a.shape[-2] if a.ndim > 1 else 1, b.shape[-1]], a.itemsize)


def _matmul(call: Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    _result(a, b)
    return np.asarray(a @ b)


def product_error(a: Approx, b: Approx) -> np.ndarray:
    """Of ``a.value @ b.value``."""
    k = a.value.shape[-1]
    if a.known and b.known:
        if b.value.ndim > 1:
            return bounds.matmul(a.value, b.value)
        return bounds.matmul(a.value, b.value[:, None])[..., 0]
    largest = np.asarray(np.broadcast_to(a.size, a.value.shape) @ np.broadcast_to(b.size, b.value.shape))
    moved = propagation.product(a.value, a.full, b.value, b.full)
    return moved + bounds.gamma(k) * largest + 2 * k * TINY


def _matmul_error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    return product_error(*xs)


def _turned(call: Call, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"the operands have the shapes {a.shape} and {b.shape}; need two dimensions")
    return a.T if call.get("transA", 0) else a, b.T if call.get("transB", 0) else b


def _gemm(call: Call, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
    a, b = _turned(call, a, b)
    _result(a, b)
    y = a @ b
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    if alpha != 1:
        y = (y * y.dtype.type(alpha)).astype(y.dtype)
    if c is not None:
        same_types((y, c))
        y = y + (c if beta == 1 else (c * c.dtype.type(beta)).astype(c.dtype))
    return y


def _gemm_error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    """alpha a b + beta c: a rounding for each factor that is not 1, one for the sum, and c may go into the sum of
    products first."""
    values, errors = _turned(call, xs[0].value, xs[1].value), _turned(call, xs[0].full, xs[1].full)
    k = values[0].shape[-1]
    error = product_error(*map(Approx, values, errors)) * abs(call.get("alpha", 1.0))
    product = np.abs(call.get("alpha", 1.0) * (values[0] @ values[1]))
    if len(xs) > 2:
        beta = call.get("beta", 1.0)
        error = error + abs(beta) * (xs[2].error + bounds.gamma(k + 1) * xs[2].size)
    return rounded(np.maximum(product, np.abs(y)), error, 2)


def _einsum(call: Call, *xs: np.ndarray) -> np.ndarray:
    same_types(xs)
    equation = call.get("equation", "")
    terms, shape = _lengths(equation, xs)
    affordable(shape, xs[0].itemsize)
    return np.asarray(np.einsum(terms, *xs, optimize=len(xs) > 2))


def _lengths(equation: str, xs: tuple[np.ndarray, ...]) -> tuple[str, list[int]]:
    """The equation without blanks, and the shape of the result."""
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(set(left) - {",", "."})
        right = ("..." if "." in left else "") + "".join(n for n in letters if left.count(n) == 1)
    if "..." in equation:
        return equation, list(np.broadcast_shapes(*(x.shape for x in xs[:1])))
    if [len(term) for term in terms] != [x.ndim for x in xs]:
        raise ValueError(f"the attribute equation is {equation!r}; it does not match {[x.shape for x in xs]}")
    length = {n: size for term, x in zip(terms, xs, strict=True) for n, size in zip(term, x.shape, strict=True)}
    if not set(right) <= length.keys():
        raise ValueError(f"the attribute equation is {equation!r}; the result has a letter that no operand has")
    return equation, [length[n] for n in right]


def _einsum_error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    """Each term is a product of all operands, then goes through at most as many additions as there are terms."""
    equation = call.get("equation", "").replace(" ", "")
    largest = np.einsum(equation, *(np.broadcast_to(x.size, x.value.shape) for x in xs))
    sure = np.einsum(equation, *(np.abs(x.value) for x in xs))
    terms = math.prod(max(x.value.shape, default=1) for x in xs[:2])
    return np.maximum(largest - sure, 0) + bounds.gamma(terms + len(xs)) * largest + 2 * terms * TINY


OPERATORS = {
    ("", "MatMul"): Operator(_matmul, float_only(_matmul_error)),
    ("", "Gemm"): Operator(_gemm, float_only(_gemm_error)),
    ("", "Einsum"): Operator(_einsum, float_only(_einsum_error)),
}
