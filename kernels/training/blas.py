"""Linear layers on NumPy's BLAS, for CPUs without AVX-512; ``refimpl.nn.linear`` has the backward."""

import numpy as np

from refimpl.nn.params import Linear
from refimpl.nn.taps import NO_TAP, Tap


def linear(x: np.ndarray, p: Linear, tap: Tap = NO_TAP) -> np.ndarray:
    """One product of all tokens: NumPy would make one of each text."""
    y = x.reshape(-1, x.shape[-1]) @ p.weight.T
    y += p.bias
    return y.reshape(*x.shape[:-1], -1)
