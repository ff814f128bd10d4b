"""f32 arithmetic on sixteen lanes.

Contract. +, -, *, /, sqrt and the fused multiply-add round once, to nearest, ties to even; subnormal numbers are kept,
overflow gives infinity, no exception is raised. Which NaN comes out is not stated. ``vmaxps`` and ``vminps`` give the
second operand where either is NaN or both are zeros. Going outside an array is an IndexError, as in ``isa.memory``.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from refimpl import check
from refimpl.isa.memory import _inside


def _ieee(function: Callable[..., Any]) -> Callable[..., Any]:
    """Operands f32, results as IEEE 754 has them, without NumPy's warnings."""

    @wraps(function)
    def checked(*registers: np.ndarray) -> Any:
        for register in registers:
            check.dtype("register", register, np.float32)
        with np.errstate(all="ignore"):
            return function(*registers)

    return checked


# --- memory ----------------------------------------------------------------------------------------------------------


def vmovups_load(array: np.ndarray, at: int) -> np.ndarray:
    """Sixteen f32."""
    return array[_inside(array, at, 16, np.float32)].copy()


def vmovups_store(array: np.ndarray, at: int, register: np.ndarray) -> None:
    """Sixteen f32."""
    check.same_dtype("register", register, array)
    array[_inside(array, at, 16, np.float32)] = register


def vmovups_load_first(array: np.ndarray, at: int, count: int, others: np.ndarray) -> np.ndarray:
    """``count`` f32 (all sixteen from 16 on), and the later lanes of ``others``: a load under a mask."""
    count = min(count, 16)
    return np.concatenate([array[_inside(array, at, count, np.float32)], others[count:]])


def vmovups_store_first(array: np.ndarray, at: int, register: np.ndarray, count: int) -> None:
    """The first ``count`` f32 (all sixteen from 16 on); the rest of the array stays: a store under a mask."""
    count = min(count, 16)
    check.same_dtype("register", register, array)
    array[_inside(array, at, count, np.float32)] = register[:count]


def vbroadcastss(array: np.ndarray, at: int) -> np.ndarray:
    """One f32 of an array in all lanes."""
    return np.repeat(array[_inside(array, at, 1, np.float32)], 16)


def broadcast_f32(value: np.float32) -> np.ndarray:
    """A scalar f32 in all lanes (``vbroadcastss`` from a register)."""
    if not isinstance(value, np.float32):
        raise TypeError(f"value is {type(value).__name__}; need float32")
    return np.full(16, value)


def zero_f32() -> np.ndarray:
    """Sixteen zeros (``vxorps`` of a register with itself)."""
    return np.zeros(16, np.float32)


# --- arithmetic ------------------------------------------------------------------------------------------------------


@_ieee
def vaddps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b."""
    return a + b


@_ieee
def vsubps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b."""
    return a - b


@_ieee
def vmulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a b."""
    return a * b


@_ieee
def vdivps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b."""
    return a / b


@_ieee
def vsqrtps(a: np.ndarray) -> np.ndarray:
    """The square root; NaN below zero, -0 of -0."""
    return np.sqrt(a)


@_ieee
def vmaxps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a where a > b, else b.

    >>> vmaxps(np.array([np.nan, 1, -0.0], np.float32), np.array([1, np.nan, 0.0], np.float32))
    array([ 1., nan,  0.], dtype=float32)
    """
    return np.where(a > b, a, b)


@_ieee
def vminps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a where a < b, else b."""
    return np.where(a < b, a, b)


@_ieee
def vblendmps(a: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x where a > b, else y, also where a or b is NaN: under the mask of ``vcmpps`` (GT_OQ).

    >>> a, b = np.array([2, 1, np.nan], np.float32), np.array([1, 1, 1], np.float32)
    >>> vblendmps(a, b, np.full(3, 7, np.float32), b)
    array([7., 1., 1.], dtype=float32)
    """
    return np.where(a > b, x, y)


@_ieee
def fma_to_odd(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c of f32 in f64, rounded to odd, so that one more rounding to f32 is the only one that counts.

    In f64 the product is exact (48 bits). Where the sum is inexact and its last bit is 0, its neighbour on the side of
    the error, whose last bit is 1, takes its place: it lies on the same side of every f32 and of every tie as the exact
    sum. Source: Boldo, Melquiond, Emulation of FMA and correctly rounded sums, IEEE TC 57 (4), 2008: it needs two bits
    more than f32's 24; f64 has 53, and none of these numbers is subnormal in f64.
    """
    product, addend = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)  # exact: Knuth's two-sum
    even = total.view(np.int64) & 1 == 0
    inexact = np.isfinite(total) & (error != 0) & even
    return np.where(inexact, np.nextafter(total, np.copysign(np.inf, error)), total)


def vfmadd(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c with one rounding.

    >>> one, tiny = np.float32([1]), np.float32([2**-24])
    >>> vfmadd(np.float32([1 + 2**-12]), np.float32([1 + 2**-12]), -one) == np.float32(2**-11 + 2**-24)
    array([ True])
    """
    with np.errstate(all="ignore"):
        return fma_to_odd(a, b, c).astype(np.float32)


@_ieee
def vrndscaleps(a: np.ndarray) -> np.ndarray:
    """The nearest integer, ties to even, still f32; -0 for -0.5 ... -0 (immediate 8).

    >>> vrndscaleps(np.array([0.5, 1.5, -2.5], np.float32))
    array([ 0.,  2., -2.], dtype=float32)
    """
    return np.rint(a)


@_ieee
def vscalefps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a 2**floor(b) with one rounding, for any finite a and b.

    >>> vscalefps(np.array([3, 3], np.float32), np.array([-1, -1.5], np.float32))
    array([1.5 , 0.75], dtype=float32)
    """
    power = np.clip(np.floor(b), -300, 300).astype(np.int32)  # beyond, every f32 has become 0 or infinity
    return np.ldexp(a.astype(np.float64), power).astype(np.float32)  # exact in f64


# --- across lanes ----------------------------------------------------------------------------------------------------


@_ieee
def reduce_add(a: np.ndarray) -> np.float32:
    """The sum of the lanes by halves: lane i takes lane i + 8, then i + 4, i + 2, i + 1 (``_mm512_reduce_add_ps``)."""
    for half in (8, 4, 2, 1):
        a = a[:half] + a[half:]
    return a[0]


@_ieee
def reduce_max(a: np.ndarray) -> np.float32:
    """The maximum by halves, in the same order, each by ``vmaxps`` of the lower and the upper half."""
    for half in (8, 4, 2, 1):
        a = vmaxps(a[:half], a[half:])
    return a[0]
