"""The error function of x / sqrt 2, as a part of GELU: the share of the normal distribution between -x and x.

    erf(x / sqrt 2) = x P(t) / Q(t),   t = min(x**2, 32),   P and Q of degree 5

Contract. Odd, of magnitude at most 1, and exactly -1 or 1 from |x| = sqrt 32 on (the true value there is 1 - 1.5e-8,
nearer to 1 than to any other f32). The result is within ERF_ULPS of erf(x / sqrt 2), relative to the result. Equal bits
everywhere.

Derivation, relative to the result, u = 2**-24. P and Q were fitted in f64 for the smallest maximal relative error
(least squares, reweighted): 0.42 u. All coefficients are positive and t >= 0, so each polynomial is a sum of positive
terms: rounding its coefficients and Horner's five fused steps move it by at most gamma(6). t has one rounding, to which
the quotient is insensitive: |t d ln(P/Q) / dt| = |(z erf' z / erf z - 1) / 2| <= 1/2, z = x / sqrt 2. x P and the
division round once each. 0.42 + 6 + 6 + 0.5 + 2 < 15 u; that the result is 1 beyond sqrt 32 adds 0.26 u. Together below
16 u.
"""

import numpy as np

from refimpl.kernels.simd.instructions.f32 import broadcast_f32, vdivps, vfmadd, vmaxps, vminps, vmulps
from refimpl.kernels.simd.threefold import part

ERF_ULPS = 8
"""Error in ulps; one ulp of y is at most 2 u |y|."""

LIMIT, ONE = np.float32(32), np.float32(1)
P0, P1, P2 = np.float32(0.7978845), np.float32(0.068428814), np.float32(0.009387172)
P3, P4, P5 = np.float32(0.0003432458), np.float32(1.2576212e-05), np.float32(4.390207e-08)
Q1, Q2, Q3 = np.float32(0.25242907), np.float32(0.02883759), np.float32(0.001900916)
Q4, Q5 = np.float32(7.409884e-05), np.float32(1.1693821e-06)


@part
def erf_sqrt_half(x):
    """erf(x / sqrt 2) of sixteen lanes."""
    t = vminps(vmulps(x, x), broadcast_f32(LIMIT))
    p = vfmadd(broadcast_f32(P5), t, broadcast_f32(P4))
    p = vfmadd(p, t, broadcast_f32(P3))
    p = vfmadd(p, t, broadcast_f32(P2))
    p = vfmadd(p, t, broadcast_f32(P1))
    p = vfmadd(p, t, broadcast_f32(P0))
    q = vfmadd(broadcast_f32(Q5), t, broadcast_f32(Q4))
    q = vfmadd(q, t, broadcast_f32(Q3))
    q = vfmadd(q, t, broadcast_f32(Q2))
    q = vfmadd(q, t, broadcast_f32(Q1))
    q = vfmadd(q, t, broadcast_f32(ONE))
    return vmaxps(vminps(vdivps(vmulps(x, p), q), broadcast_f32(ONE)), broadcast_f32(-ONE))
