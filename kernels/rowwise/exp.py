"""The exponential, as a part of other kernels.

    n = round(x / ln 2),   r = x - n ln 2 in [-0.3466, 0.3466],   exp x = 2**n p(r),   p(r) = 1 + r + r**2 q(r)

Contract. x is clamped below at -104, where the result is exactly 0 (exp(-104) < 2**-150); x <= 88. The result is
within EXP_ULPS of exp x, and within 2**-150 more where it is subnormal; exp(0) is exactly 1. Equal bits everywhere.

Derivation, relative to the result, u = 2**-24. n <= 2**8, so n times the high part of ln 2 leaves x without rounding
(the difference is a multiple of the last bit of the smaller number and fits 24 bits); the low part adds one rounding of
r, 0.25 u. q was fitted in f64 for the smallest maximum (least squares, reweighted): p is within 0.06 u of exp, and
rounding the coefficients adds 0.06 u. Horner's rule ends with 1 + r (1 + r q): a last rounding of at most 0.71 u below
1 and 1 u above; the one before, 1 u of at most 1.2 times |r| / p <= 0.35 / 0.71, is at most 0.6 u below and 0.42 u
above; those in q, times r**2 / p, 0.15 u together. The sum is below 2 u, which is one ulp at most.
"""

import numpy as np

from refimpl.kernels.simd.instructions.f32 import broadcast_f32, vfmadd, vmaxps, vmulps, vrndscaleps, vscalefps
from refimpl.kernels.simd.threefold import part

EXP_ULPS = 1
"""Error in ulps; one ulp of y is at most 2 u |y|."""

LOWEST = np.float32(-104)
LOG2_E = np.float32(np.log2(np.e))
MINUS_LN2_HIGH = np.float32(-np.log(2))
MINUS_LN2_LOW = np.float32(-np.log(2) - float(MINUS_LN2_HIGH))
ONE = np.float32(1)
Q0, Q1, Q2 = np.float32(0.4999999403953552), np.float32(0.1666652113199234), np.float32(0.04166838899254799)
Q3, Q4 = np.float32(0.008368716575205326), np.float32(0.001381459878757596)


@part
def exp(x):
    """exp x of sixteen lanes."""
    x = vmaxps(x, broadcast_f32(LOWEST))
    n = vrndscaleps(vmulps(x, broadcast_f32(LOG2_E)))
    r = vfmadd(n, broadcast_f32(MINUS_LN2_HIGH), x)
    r = vfmadd(n, broadcast_f32(MINUS_LN2_LOW), r)
    q = vfmadd(broadcast_f32(Q4), r, broadcast_f32(Q3))
    q = vfmadd(q, r, broadcast_f32(Q2))
    q = vfmadd(q, r, broadcast_f32(Q1))
    q = vfmadd(q, r, broadcast_f32(Q0))
    p = vfmadd(q, r, broadcast_f32(ONE))
    p = vfmadd(p, r, broadcast_f32(ONE))
    return vscalefps(p, n)
