"""Clipping of gradients by their global norm.

    n = sqrt(sum of g² over all elements of all arrays)
    g = g c / n   if n > c, else g

Contract. The sum is in f64, array by array in the order of the dictionary; c / n is rounded to the dtype of g.
PyTorch's clip_grad_norm_ divides by n + 1e-6 and sums in f32.
Source: Pascanu, Mikolov and Bengio, arXiv 1211.5063, algorithm 1.
"""

from collections.abc import Callable, Mapping
from math import fsum, sqrt
from typing import NamedTuple

import numpy as np

Norm = Callable[[Mapping[str, np.ndarray]], float]
Multiply = Callable[[Mapping[str, np.ndarray], float], None]


def global_norm(gradients: Mapping[str, np.ndarray]) -> float:
    """n; NaN or infinite if an element is."""
    total = [float(np.square(g, dtype=np.float64).sum()) for g in gradients.values()]
    return sqrt(fsum(total)) if np.isfinite(total).all() else float("nan")


def multiply(gradients: Mapping[str, np.ndarray], factor: float) -> None:
    """The arrays, in place."""
    for g in gradients.values():
        g *= factor


def clip(gradients: Mapping[str, np.ndarray], norm: float, most: float, multiply: Multiply = multiply) -> None:
    """Scale the arrays in place, given their global norm, so that it is at most ``most``."""
    if not most > 0:
        raise ValueError(f"most is {most}; need more than 0")
    if norm > most:
        multiply(gradients, most / norm)


class Clipping(NamedTuple):
    """At a norm of ``most``, with the functions of this module or kernels for them."""

    most: float = 1.0
    norm: Norm = global_norm
    multiply: Multiply = multiply
