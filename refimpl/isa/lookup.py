"""Looking bytes up in registers.

Contract. Moves bits; no arithmetic.
"""

import numpy as np

from refimpl import check


def vpermi2b(index: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Byte index % 128, index u8, of the 128 in ``low`` and ``high``, both u8 or both s8 (AVX-512 VBMI)."""
    check.dtype("index", index, np.uint8)
    check.dtype("low", low, np.uint8, np.int8)
    check.same_dtype("high", high, low)
    return np.concatenate([low, high])[index & 127]


def vpblendmb(index: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """b where the top bit of ``index`` is set, else a; all u8 (``vpmovb2m`` makes the mask)."""
    for name, register in (("index", index), ("a", a), ("b", b)):
        check.dtype(name, register, np.uint8)
    return np.where(index >= 128, b, a)
