"""The largest code that a layer's input can take, whatever the text: what makes the static test a theorem.

    any input               most = 255                                             the quantizer clamps
    a layer norm before it  |xhat_k| <= sqrt(D)
                            x_k <= |weight_k| sqrt(D) + bias_k =: B_k
                            most_k = 128 + floor(B_k / scale + 1/2), 0 ... 255      rounding to nearest moves up to 1/2

sqrt(D) holds for any differences d from any mean, however rounded: d_k**2 <= sum_j d_j**2 = D mean(d**2), so
|d_k| / sqrt(mean(d**2) + eps) < sqrt(D). What remains are the roundings of a few f32 operations on numbers that large,
far below the relative margin of 2**-10 that is added here. It does not hold for a variance computed as the mean of
squares less the square of the mean, which may cancel.

Scales come from the largest of all channels, so the others often cannot reach their end of the range: behind BERT's
attention norms, where a few channels are outliers, most channels are far from 255.
"""

import numpy as np

from refimpl import check
from refimpl.integer.pairs import FULL
from refimpl.nn.params import Norm
from refimpl.quant.symmetric import ZERO_POINT

MARGIN = 2.0**-10


def most_after_norm(p: Norm, scale: np.ndarray) -> np.ndarray:
    """Largest code of each channel of a quantized layer norm's output, on any input.

    Parameters
    ----------
    p : weight, bias f32 (D,)
    scale : f32 ()

    Returns
    -------
    s32 (D,), 0 ... 255

    >>> most_after_norm(Norm(np.float32([1, 1, 8, 0]), np.float32([0, -1, 0, 0]), 1e-12), np.float32(0.05)[...])
    array([168, 148, 255, 128], dtype=int32)
    """
    check.dtype("scale", scale, np.float32)
    check.shape("scale", scale, ())
    check.positive("scale", scale)
    weight, bias = np.abs(p.weight.astype(np.float64)), p.bias.astype(np.float64)
    bound = weight * weight.size**0.5 + bias + MARGIN * (weight * weight.size**0.5 + np.abs(bias))
    return np.clip(ZERO_POINT + np.floor(bound / float(scale) + 0.5), 0, FULL).astype(np.int32)
