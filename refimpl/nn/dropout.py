"""Dropout: y = x keep / (1 - p), keep drawn anew in each pass; nothing at all in evaluation.

Contract. A number is dropped with the probability p rounded to a multiple of 2**-16, and the others are divided by one
minus that: then each has the mean that it had. The draws are 16 bits of the generator's bytes each, in the order of the
elements. Source: Srivastava et al., JMLR 15 (2014), section 4, with the scale at training time; BERT uses p = 0.1 at
five places (``PLACES``), as Hugging Face does.
"""

import numpy as np

from refimpl import check

PLACES = ("embeddings", "probs", "attention_output", "output", "pooler")
"""Names of the taps whose values are dropped; "output" is a layer's, not the model's."""
STEPS = 2**16


def draw(shape: tuple[int, ...], p: float, generator: np.random.Generator) -> np.ndarray:
    """Which numbers stay: bool (...)."""
    count = int(np.prod(shape))
    draws = np.frombuffer(generator.bytes(2 * count), np.uint16)
    return (draws >= threshold(p)).reshape(shape)


def threshold(p: float) -> int:
    """Draws below it are dropped. Raises ValueError unless 0 <= p < 1."""
    if not 0 <= p < 1:
        raise ValueError(f"p is {p}; need a number from 0 to below 1")
    return min(round(p * STEPS), STEPS - 1)


def dropout(x: np.ndarray, keep: np.ndarray, p: float) -> np.ndarray:
    """x: float (...), keep: bool (...) -> float (...). Its own backward: dx = dropout(dy, keep, p)."""
    check.dtype("x", x, *check.FLOATS)
    check.dtype("keep", keep, np.bool_)
    check.shape("keep", keep, x.shape)
    return x * keep * x.dtype.type(STEPS / (STEPS - threshold(p)))
