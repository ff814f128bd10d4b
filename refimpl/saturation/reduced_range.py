"""Weights in a smaller range, as tools really store them so that pairs cannot saturate. All are lossy; |w| <= 64.

    name                        step                 codes              stored where
    nncf_ptq_enable             2 high / 127         -63 ... 63         an OpenVINO IR made by NNCF's quantize()
    nncf_legacy_enable          scale / 63           -64 ... 63         NNCF's training-time quantizer, exported
    ort_reduce_range            absmax / 64          -64 ... 64         ONNX Runtime, quant_type QInt8, reduce_range
    high = max(absmax, 0.01 max over rows, 8e-5)     scale = max(absmax, 0.1), before any training

Settings that change nothing in a BERT, since it has no convolution: NNCF's ``first_layer_only`` (PTQ's default, and the
legacy one) takes the first convolutions; the Post-training Optimization Tool's ``saturation_fix``, whether
``first_layer`` or ``all``, returns before it looks at any layer if the model has none.

Sources: NNCF nncf/quantization/fake_quantize.py (``_calculate_scaled_parameters``), nncf/torch/quantization/layers.py
and algo.py (``half_range``), nncf/common/graph/utils.py (``get_first_nodes_of_type`` with convolutions only);
OpenVINO FakeQuantize and CompressQuantizeWeights; POT algorithms/quantization/fake_quantize.py
(``set_rescaling_factors``); ONNX Runtime onnxruntime/python/tools/quantization/quant_utils.py (the reduced symmetric
range of INT8).

Contract. f32 (M, K) -> codes s8 (M, K) and scale f32 (M,), one a row; all arithmetic in f32, rounded ties to even.
"""

import numpy as np

from refimpl import check
from refimpl.quant.fake import initial_high, initial_high_nncf
from refimpl.quant.nncf_ranges import symmetric_high
from refimpl.quant.symmetric import SMALLEST_NORMAL

F32 = np.float32


def nncf_ptq_enable(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NNCF ``OverflowFix.ENABLE``: 255 levels over twice the range. A row's largest weight lies on the tie 63.5.

    FakeQuantize rounds (x - low) / (high - low) * 254, which is 190.5 there, to the even 190: the code 63. (Rounding
    after the zero point 127 was taken off would give 64; so may another order of operations, by f32 noise.)

    >>> nncf_ptq_enable(np.array([[1, -1, 0.5]], np.float32))[0]
    array([[ 63, -63,  32]], dtype=int8)
    """
    high = 2 * symmetric_high(_absmax(w))[:, None]
    levels = np.rint((np.clip(w, -high, high) + high) / (2 * high) * F32(254))
    return (levels - 127).astype(np.int8), (2 * high[:, 0] / F32(254)).astype(F32)


def nncf_legacy_enable(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NNCF ``"overflow_fix": "enable"`` for training: levels -64 ... 63, narrow_range off, the scale never below 0.1.

    >>> nncf_legacy_enable(np.array([[1, -1, 0.5], [0.05, 0, 0]], np.float32))[0]
    array([[ 63, -63,  32],
           [ 32,   0,   0]], dtype=int8)
    """
    _check(w)
    scale = initial_high_nncf(w)
    return np.clip(np.rint(w * (F32(63) / scale[:, None])), -64, 63).astype(np.int8), scale / F32(63)


def ort_reduce_range(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ONNX Runtime ``reduce_range=True``, weights s8, symmetric, one scale a row.

    >>> ort_reduce_range(np.array([[1, -1, 0.5]], np.float32))[0]
    array([[ 64, -64,  32]], dtype=int8)
    """
    scale = _absmax(w) / F32(64)
    scale = np.where(scale >= SMALLEST_NORMAL, scale, F32(1))
    return np.clip(np.rint(w / scale[:, None]), -64, 64).astype(np.int8), scale


def _absmax(w: np.ndarray) -> np.ndarray:
    _check(w)
    return initial_high(w)


def _check(w: np.ndarray) -> None:
    check.dtype("w", w, np.float32)
    check.shape("w", w, ("M", "K"))
    check.finite("w", w)
