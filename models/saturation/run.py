"""A treated model, run exactly and as a CPU without VNNI runs it, by the model's one wiring.

exact        acc = sum_k u[k] w[m, k]                       whatever the layout
saturating   acc + sum over pairs that could saturate of what clipping adds
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.integer.pairs import Pairs, add_excess
from refimpl.models.bert import Batch, Model, forward, map_linears
from refimpl.models.config import Config
from refimpl.models.saturation.remedies import Treated, Treatment
from refimpl.models.tokenizer import Tokenizer
from refimpl.nn import NO_TAP, Ops, Recorder, Tap
from refimpl.quant import QUANTIZED, integer_linear
from refimpl.saturation.u7 import u7_linear

CODES = ".codes"
TOGETHER = 16
"""Texts in a batch."""


class Ready(NamedTuple):
    """A treated layer with its pairs at hand."""

    treated: Treated
    pairs: Pairs


def prepared(model: Model, treatment: Treatment) -> Model:
    """The model with each linear layer ``Ready``."""
    return map_linears(model, lambda name, layer: Ready(treatment[name], treatment[name].pairs))


def _ops(saturating: bool) -> Ops:
    def linear(x: np.ndarray, p: Any, tap: Tap = NO_TAP) -> np.ndarray:
        if not isinstance(p, Ready):
            return QUANTIZED.linear(x, p, tap)

        def product(u: np.ndarray) -> np.ndarray:
            acc = gemm_u8s8s32(u, p.treated.linear.codes)
            if saturating:
                add_excess(acc, u, p.pairs)
            return acc

        run = u7_linear if p.treated.seven_bits else integer_linear
        return run(x, p.treated.linear, product, tap)

    return QUANTIZED._replace(linear=linear)


EXACT, SATURATING = _ops(False), _ops(True)


def batched(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Batch]:
    """A few texts at a time, padded to the longest of them."""
    return [tokenizer.encode(texts[start : start + TOGETHER]) for start in range(0, len(texts), TOGETHER)]


def outputs(model: Model, batches: Sequence[Batch], ops: Ops) -> list[np.ndarray]:
    """The model's output for each text, without its padding. model: ``prepared``."""
    return [row for batch in batches for row in _rows(forward(model, batch, ops), batch)]


Recorded = tuple[list[np.ndarray], dict[str, np.ndarray]]


def recorded(model: Model, batches: Sequence[Batch]) -> Recorded:
    """The exact outputs, and by name of a layer the codes that it was given for every token, u8 (N, K)."""
    results: list[np.ndarray] = []
    codes: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        recorder = Recorder()
        results += _rows(forward(model, batch, EXACT, recorder), batch)
        for tap, value in recorder.values.items():
            if tap.endswith(CODES):
                codes.setdefault(tap.removesuffix(CODES), []).append(value[batch.mask != 0])
    return results, {name: np.concatenate(parts) for name, parts in codes.items()}


def _rows(output: np.ndarray, batch: Batch) -> list[np.ndarray]:
    """(B, ...) or, where there is a result for each token, (B, T, ...) -> one array a text."""
    if output.ndim < 3:
        return list(output)
    return [row[:length] for row, length in zip(output, batch.mask.sum(1).tolist(), strict=True)]


def labels(results: Sequence[np.ndarray], config: Config) -> np.ndarray:
    """What a user would read from the outputs, one integer a decision: class, start and end, word at each token, or the
    nearest other text of an embedding (none for one text alone)."""
    if config.head == "sentence_embedding":
        vectors = np.stack(results)
        near = vectors @ vectors.T - 4 * np.eye(len(vectors), dtype=np.float32)
        return near.argmax(1) if len(vectors) > 1 else np.zeros(0, np.int64)
    axis = 0 if config.head == "question_answering" else -1
    return np.concatenate([np.atleast_1d(result.argmax(axis)).ravel() for result in results])
