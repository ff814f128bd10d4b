"""The error function, as a part of other kernels.

    erf z = z P(t) / Q(t),   t = z**2,   z clamped to [-4, 4],   P and Q of degree 5

Contract. Odd, of magnitude at most 1, and exactly -1 or 1 from |z| = 4 on (the true value there is 1 - 1.5e-8, nearer
to 1 than to any other f32). The result is within ERF_ULPS of erf z, relative to the result. Equal bits everywhere.

Derivation, relative to the result, u = 2**-24. P and Q were fitted in f64 for the smallest maximal relative error
(least squares, reweighted): 0.42 u. All coefficients are positive and t >= 0, so each polynomial is a sum of positive
terms: rounding its coefficients and Horner's five fused steps move it by at most gamma(6). t has one rounding, to which
the quotient is insensitive: |t d ln(P/Q) / dt| = |(z erf' z / erf z - 1) / 2| <= 1/2. z P and the division round once
each. 0.42 + 6 + 6 + 0.5 + 2 < 15 u; the clamp at 4 adds 0.26 u and the last bits of P's last coefficient, raised
until erf 4 rounded to 1, 0.1 u. Together below 16 u.
"""

import numpy as np

from refimpl.kernels.simd.instructions.f32 import broadcast_f32, vdivps, vfmadd, vmaxps, vminps, vmulps
from refimpl.kernels.simd.threefold import part

ERF_ULPS = 8
"""Error in ulps; one ulp of y is at most 2 u |y|."""

LIMIT, ONE = np.float32(4), np.float32(1)
P0, P1, P2 = np.float32(1.1283791), np.float32(0.1935456), np.float32(0.053101823)
P3, P4, P5 = np.float32(0.003883369), np.float32(0.00028456684), np.float32(1.9867837e-06)
Q1, Q2, Q3 = np.float32(0.5048579), np.float32(0.115350224), np.float32(0.0152073)
Q4, Q5 = np.float32(0.001185578), np.float32(3.742023e-05)


@part
def clamp(x, limit):
    """x between -limit and limit."""
    return vmaxps(vminps(x, broadcast_f32(limit)), broadcast_f32(-limit))


@part
def erf(z):
    """erf z of sixteen lanes."""
    z = clamp(z, LIMIT)
    t = vmulps(z, z)
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
    return clamp(vdivps(vmulps(z, p), q), ONE)
