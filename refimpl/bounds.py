"""How far a float engine may be from the exact result: one derived bound per operator.

    u        = 2**-24 for f32, 2**-53 for f64            unit roundoff
    gamma(n) = n u / (1 - n u)                           |(1 + d1) ... (1 + dn) - 1| <= gamma(n) for all |di| <= u

Contract. Each function takes the operator's actual inputs (the f32 numbers; they are widened to f64 here) and returns
an elementwise f64 bound of |computed result - exact result|. It holds for any order of summation, with or without
fused multiply-add, for division or multiplication by a rounded reciprocal, and with results flushed to zero: each
operation may lose another 2**-126, the smallest normal number. Domain: inputs are finite, zero or normal; nothing
overflows; +, -, *, / and sqrt round to nearest. ``u=F64`` bounds f64 arithmetic instead.

A bound is evaluated in f64. For f32 that is safe: gamma(n) exceeds (1 + u)**n - 1 by the relative n u / 2 > 2**-26,
far more than f64 loses.

Libraries do not round exp, erf and tanh correctly, so their errors are constants here. glibc's libmvec promises
4 ulp, NumPy 2.52 ulp for its own f32 exp, SLEEF (in PyTorch) 1 ulp. One ulp of y is at most 2 u |y|.

Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 2.2, 3.1 (lemma 3.1) and 3.5.
"""

import numpy as np
from scipy.special import erfc

from refimpl.isa.bf16 import from_bf16
from refimpl.nn.params import Norm

F32, F64 = 2.0**-24, 2.0**-53

EXP_ULPS = 4
"""Error of exp, in ulps of the result."""

TANH_ULPS = 4
"""Error of tanh, in ulps of the result."""

ERF_ULPS = 54
"""Error of erf, in ulps (2 u) of 1.0: an absolute error.

Derived for the formula that engines use most (oneDNN among them), Abramowitz and Stegun 7.1.26, evaluated in f32:
erf z = 1 - P(t) exp(-z**2), t = 1 / (1 + p z), P of degree 5 by Horner's rule, coefficients a_i. In units of u, at
worst (t = 1, z = 0): the formula itself 1.5e-7 = 2.5; Horner 10 sum |a_i| t**i = 44.8; three roundings of t,
3 sum i |a_i| t**i = 48.6; exp, its argument, the product and the difference 12. Together 108 u."""


def gamma(n: float, u: float = F32) -> float:
    """n u / (1 - n u): the relative error that n roundings can reach.

    >>> gamma(2, u=0.25)
    1.0
    """
    if n * u >= 1:
        raise ValueError(f"n is {n}; need n u < 1, which is n < {1 / u:.0f}")
    return n * u / (1 - n * u)


def _tiny(u: float) -> float:
    """The smallest normal number of the type: what flushing one result to zero can lose."""
    return 2.0**-126 if u == F32 else 2.0**-1022


def _wide(*arrays: np.ndarray | float) -> list[np.ndarray]:
    return [np.asarray(a, np.float64) for a in arrays]


def _mean(x: np.ndarray) -> np.ndarray:
    return x.mean(-1, keepdims=True)


# --- sums and products -----------------------------------------------------------------------------------------------


def add(x: np.ndarray, y: np.ndarray, u: float = F32) -> np.ndarray:
    """x + y: one rounding of the exact sum."""
    x, y = _wide(x, y)
    return u * np.abs(x + y) + _tiny(u)


def embedding_sum(*terms: np.ndarray, u: float = F32) -> np.ndarray:
    """n terms added in any order: each goes through at most n - 1 additions."""
    total = sum(np.abs(term) for term in _wide(*terms))
    return gamma(len(terms) - 1, u) * total + (len(terms) - 1) * _tiny(u)


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, u: float = F32) -> np.ndarray:
    """x Wᵀ + b, x (..., K), weight (M, K): a product is rounded once, then goes through at most K additions."""
    x, weight, bias = _wide(x, weight, bias)
    k = x.shape[-1]
    return gamma(k + 1, u) * (np.abs(x) @ np.abs(weight).T + np.abs(bias)) + 2 * k * _tiny(u)


def gemm_bf16(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """a wᵀ of bf16 held as u16, a (N, K), w (M, K), summed in f32: a term goes through at most K roundings.

    A product of two bf16 has 16 bits, so it is exact in f32 and needs no rounding of its own. Finite operands, zero or
    normal, like everywhere here.
    """
    a, w = _wide(from_bf16(a), from_bf16(w))
    k = a.shape[-1]
    return gamma(k) * (np.abs(a) @ np.abs(w).T) + 2 * k * _tiny(F32)


def linear_bf16(a: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """a wᵀ + bias of operands that are bf16 already: ``gemm_bf16``, and one addition in f32."""
    (bias,), error = _wide(bias), gemm_bf16(a, w)
    total = from_bf16(a).astype(np.float64) @ from_bf16(w).T.astype(np.float64) + bias
    return error + add(np.abs(total) + error, np.zeros(()))


def attention_scores(q: np.ndarray, k: np.ndarray, u: float = F32) -> np.ndarray:
    """q kᵀ / sqrt E at unmasked keys (adding a mask of 0 is exact); q, k (..., T, E).

    E roundings for the dot product, two for 1 / sqrt E, one for the scaling of q, of k or of the scores.
    """
    q, k = _wide(q, k)
    e = q.shape[-1]
    size = np.abs(q) @ np.abs(k).swapaxes(-1, -2) / np.sqrt(e)
    return gamma(e + 3, u) * size + (2 * e + 2) * _tiny(u)


def attention_context(
    probs: np.ndarray, v: np.ndarray, u: float = F32, probs_error: np.ndarray | float = 0.0
) -> np.ndarray:
    """probs v, probs (..., T, T), which may be off by ``probs_error``, v (..., T, E).

    One rounding per product and T - 1 additions.
    """
    probs, v, probs_error = _wide(probs, v, probs_error)
    t = probs.shape[-1]
    moved = np.broadcast_to(probs_error, probs.shape) @ np.abs(v)
    return gamma(t, u) * (np.abs(probs) @ np.abs(v) + moved) + moved + 2 * t * _tiny(u)


def mean_pool(x: np.ndarray, mask: np.ndarray, u: float = F32) -> np.ndarray:
    """Masked mean over T, x (B, T, D): T - 1 additions and two roundings for the division; the count is exact."""
    (x,) = _wide(x)
    weights = (mask != 0)[..., None]
    mean = (np.abs(x) * weights).sum(1) / np.maximum(weights.sum(1), 1)
    return gamma(x.shape[1] + 1, u) * mean + 2 * _tiny(u)


def l2_normalize(x: np.ndarray, u: float = F32) -> np.ndarray:
    """x / max(|x|, 1e-12), x (..., D).

    The sum of squares has the relative error gamma(D), 2 D flushes apart; its inverse square root no more, since
    1 / sqrt(1 - g) <= 1 + g for g <= 0.6. One rounding for sqrt (or for 1e-12), two for the division.
    """
    (x,) = _wide(x)
    d = x.shape[-1]
    norm = np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), 1e-12)
    flushed = 2 * d * _tiny(u) / norm**2
    return (gamma(d + 3, u) + 2 * flushed) * np.abs(x) / norm + 2 * _tiny(u)


def rescale(
    acc: np.ndarray, input_scale: np.ndarray, weight_scale: np.ndarray, bias: np.ndarray, u: float = F32
) -> np.ndarray:
    """acc * input_scale * weight_scale + bias from an exact s32 acc (..., M), the factors multiplied in any order.

    One rounding for f32(acc), two for the products, one for the addition. The product of the two scales may be
    flushed to zero, which acc magnifies. Not covered: a bias or a compensation folded in before the scaling.
    """
    acc, input_scale, weight_scale, bias = _wide(acc, input_scale, weight_scale, bias)
    product = np.abs(acc) * (input_scale * weight_scale)
    return gamma(4, u) * product + u * np.abs(bias) + (np.abs(acc) + 3) * _tiny(u)


def scaled_scores(acc: np.ndarray, q_scale: np.ndarray, k_scale: np.ndarray, e: int, u: float = F32) -> np.ndarray:
    """acc * q_scale * k_scale / sqrt e from an exact s32 acc, the factors multiplied in any order.

    One rounding for f32(acc), two for 1 / sqrt e, three for the products. A product of factors may be flushed to
    zero, which acc magnifies. Not covered: codes that are multiplied by their scales before they are summed.
    """
    acc, q_scale, k_scale = _wide(acc, q_scale, k_scale)
    return gamma(6, u) * np.abs(acc) * (q_scale * k_scale / np.sqrt(e)) + (2 * np.abs(acc) + 3) * _tiny(u)


def scaled_context(acc: np.ndarray, v_scale: np.ndarray, u: float = F32) -> np.ndarray:
    """acc * (1 / 255) * v_scale from an exact s32 acc, the factors multiplied in any order.

    One rounding for f32(acc), one for 1 / 255, two for the products; flushing as in ``scaled_scores``.
    """
    acc, v_scale = _wide(acc, v_scale)
    return gamma(4, u) * np.abs(acc) * (v_scale / 255) + (np.abs(acc) + 2) * _tiny(u)


def quantize_probs(probs: np.ndarray, u: float = F32) -> np.ndarray:
    """How far the code of a probability may be from 255 p: half a step, and where on a boundary p lies.

    Three roundings: the scale 1 / 255, its reciprocal, the product.
    """
    (probs,) = _wide(probs)
    return 0.5 + gamma(3, u) * 255 * probs


def quantize(x: np.ndarray, scale: np.ndarray, u: float = F32) -> np.ndarray:
    """How far a code + 128 may be from x / scale + 128 (clipped): half a step, and where on a boundary x lies.

    Four roundings of a number no larger than |x / scale| + 128: a rounded reciprocal, the product, the zero point
    added before rounding, the limits.
    """
    x, scale = _wide(x, scale)
    return 0.5 + gamma(4, u) * (np.abs(np.clip(x / scale, -128, 127)) + 128)


# --- functions -------------------------------------------------------------------------------------------------------


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0) is exact."""
    return np.zeros(np.shape(x))


def tanh(x: np.ndarray, u: float = F32) -> np.ndarray:
    """TANH_ULPS of the result."""
    (x,) = _wide(x)
    return 2 * TANH_ULPS * u * np.abs(np.tanh(x)) + _tiny(u)


GELU_SLOPE = 1.13
"""No slope of GELU is steeper: at sqrt 2 it is 1.1289."""


def gelu(x: np.ndarray, u: float = F32, x_error: np.ndarray | float = 0.0) -> np.ndarray:
    """x / 2 (1 + erf z), z = x / sqrt 2, where x may itself be off by ``x_error``.

    z has two roundings, which moves erf by at most gamma(2) |z| max erf', the maximum of the slope over the interval
    being the one at its end nearest to 0. To this comes erf's own error, absolute, hence all of it where 1 + erf
    cancels at negative x; then one rounding of the sum and two of the products.
    """
    x, x_error = _wide(x, x_error)
    size = np.abs(x) + x_error
    z, nearest = size * np.sqrt(0.5), np.maximum(np.abs(x) - x_error, 0) * np.sqrt(0.5)
    slope = 2 / np.sqrt(np.pi) * np.exp(-((nearest * (1 - gamma(2, u))) ** 2))
    factor = erfc(-(x + x_error) * np.sqrt(0.5))  # 1 + erf z without cancellation
    factor_error = (gamma(2, u) * z * slope + 2 * ERF_ULPS * u) * (1 + u) + u * factor
    relative = gamma(2, u)
    rounding = size / 2 * (factor_error * (1 + relative) + relative * factor) + (size + 3) * _tiny(u)
    return rounding + GELU_SLOPE * x_error


def softmax(x: np.ndarray, u: float = F32, x_error: np.ndarray | float = 0.0) -> np.ndarray:
    """e_i / S, e_i = exp(x_i - max x), S = sum e, where x may itself be off by ``x_error``.

    The subtraction's rounding moves the exponent d by u |d|, so e by the factor exp(u |d|); an error of x moves it by
    its own and by what it can do to the maximum. With errors a_i of e_i and A of S:
    e'/S' - e/S = (e' - e)/S' - (e/S)(S' - S)/S',   then two roundings for the division.
    """
    x, x_error = _wide(x, x_error)
    t, tiny, most = x.shape[-1], _tiny(u), x.max(-1, keepdims=True)
    higher, lower = (x + x_error).max(-1, keepdims=True) - most, most - (x - x_error).max(-1, keepdims=True)
    d = np.minimum(most - x, 1000)  # beyond 1000, e is 0 whatever the rounding
    moved = np.minimum((1 + u) * (x_error + np.maximum(higher, lower)), 700)  # more only at masked keys, where e is 0
    e = np.exp(-d)
    e_error = e * np.expm1(u * d + 2 * EXP_ULPS * u + moved) + tiny
    total = e.sum(-1, keepdims=True)
    total_error = e_error.sum(-1, keepdims=True) * (1 + gamma(t, u)) + gamma(t - 1, u) * total + t * tiny
    least = total - total_error
    return (e_error + e / total * total_error + gamma(2, u) * (e + e_error)) / least + 2 * tiny


# --- layer normalization ---------------------------------------------------------------------------------------------


def _variance_two_pass(c: np.ndarray, noise: np.ndarray, shift: np.ndarray, u: float) -> np.ndarray:
    """mean(c'**2) from deviations c' = c + n - s, |n| <= noise, and s common to the row, |s| <= shift.

    mean(c'**2) - v = 2 mean(c n) + mean((n - s)**2), because mean(c s) = 0; then D + 2 roundings.
    """
    error = noise + shift
    computing = gamma(c.shape[-1] + 2, u) * _mean((np.abs(c) + error) ** 2)
    return 2 * _mean(np.abs(c) * noise) + _mean(error**2) + computing + 2 * _tiny(u)


def _variance_one_pass(x: np.ndarray, x_error: np.ndarray, shift: np.ndarray, u: float) -> np.ndarray:
    """mean(x**2) - mean(x)**2, whose terms cancel: the error grows with the square of the mean, not with v."""
    mean = np.abs(_mean(x))
    square_error = _mean((2 * np.abs(x) + x_error) * x_error)
    square_error = square_error + gamma(x.shape[-1] + 2, u) * _mean((np.abs(x) + x_error) ** 2)
    mean_error = (2 * mean + shift) * shift + u * (mean + shift) ** 2
    return (square_error + mean_error) * (1 + u) + u * x.var(-1, keepdims=True) + 4 * _tiny(u)


def layernorm(
    x: np.ndarray,
    weight: np.ndarray,
    eps: float,
    bias: np.ndarray,
    x_error: np.ndarray | float = 0.0,
    u: float = F32,
) -> np.ndarray:
    """(x - mean) / sqrt(var + eps) * weight + bias, where x (..., D) may itself be off by ``x_error``.

    Covers the two-pass variance (ours) and the one-pass E[x**2] - mean**2 (ONNX Runtime's fused kernels), whichever
    is worse. Where the one-pass variance may lose its sign the bound is infinite. eps may be rounded.
    """
    x, weight, bias, x_error = _wide(x, weight, bias, x_error)
    x_error = np.broadcast_to(x_error, x.shape)
    tiny = _tiny(u)
    c = x - _mean(x)
    # D - 1 additions and two roundings for the division
    shift = gamma(x.shape[-1] + 1, u) * _mean(np.abs(x) + x_error) + _mean(x_error) + 2 * tiny
    noise = x_error + u * (np.abs(c) + x_error + shift) + tiny
    c_error = noise + shift
    v_error = np.maximum(_variance_two_pass(c, noise, shift, u), _variance_one_pass(x, x_error, shift, u))
    total = _mean(c * c) + eps
    relative = ((v_error + u * eps) * (1 + u) + u * total) / total
    # 1 / sqrt(1 - r) - 1 without cancellation; then at most four roundings: sqrt, reciprocal, two products
    root = np.sqrt(1 - np.minimum(relative, 0.999))
    inverse = relative / ((1 + root) * root)
    inverse = inverse + gamma(4, u) * (1 + inverse)
    product_error = np.abs(weight) * ((np.abs(c) + c_error) * inverse + c_error) / np.sqrt(total)
    y = c / np.sqrt(total) * weight + bias
    error = product_error * (1 + u) + u * np.abs(y) + (2 * np.abs(weight) + 3) * tiny
    return np.where(relative < 0.999, error, np.inf)


def add_layernorm(
    x: np.ndarray, residual: np.ndarray, p: Norm, u: float = F32, x_error: np.ndarray | float = 0.0
) -> np.ndarray:
    """layernorm(x + residual), the sum rounded or kept exact, where the terms may together be off by ``x_error``."""
    x, residual = _wide(x, residual)
    error = add(np.abs(x + residual) + x_error, np.zeros(()), u) + x_error
    return layernorm(x + residual, p.weight, p.eps, p.bias, error, u)
