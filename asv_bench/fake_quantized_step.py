"""A training step with every linear layer of the encoder under fake quantization, beside the same step in f32.

    python asv_bench/fake_quantized_step.py [--threads 2] [--steps 10] [--dropout 0.1] [--json FILE]

Model and batch are those of ``training_step``; an input's range is the largest magnitude that it has in the batch. The
three take turns: f32; fake quantization in NumPy around the products of the kernels; all of it by kernels. The two
fakes are checked before they are timed: the same loss, and gradients of weights with equal bits.
"""

import json
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits
from training_step import Ours, arguments, drawn, texts, timed

from refimpl.kernels.training.linears import linears
from refimpl.kernels.training.table import training
from refimpl.models.bert import Batch, Model, forward, map_linears
from refimpl.nn import Linear
from refimpl.nn.tape import LinearKind, Tape
from refimpl.quant.calibrate import absmax
from refimpl.quant.fake import initial_high
from refimpl.quant.fake_linear import FakeQuantizedLinear, fake_quantized_kind


def under_fake_quantization(model: Model, batch: Batch, threads: int) -> Model:
    """Every linear layer, with the ranges of this batch."""
    forwards, backwards = training(threads)
    ranges: dict[int, np.ndarray] = {}

    def observe(x: np.ndarray, p: Linear) -> tuple[np.ndarray, None]:
        ranges[id(p)] = np.asarray(absmax(x))
        return forwards.linear(x, p), None

    observing = LinearKind(observe, lambda dy, kept: (dy, []))
    forward(model, batch, Tape(forwards, backwards, {Linear: observing}).ops)
    return map_linears(model, lambda _, p: FakeQuantizedLinear(*p, initial_high(p.weight), ranges[id(p)]))


def main() -> None:
    """Check, time, tell."""
    given = arguments(__doc__)
    (model, _), (batch, labels) = drawn(given.dropout), texts()
    with threadpool_limits(given.threads, "blas"):
        fake = under_fake_quantization(model, batch, given.threads)
        forwards, backwards = training(given.threads)
        by_numpy = {FakeQuantizedLinear: fake_quantized_kind(forwards.linear, backwards.linear)}
        kinds = (fake, by_numpy), (fake, linears(given.threads))
        (loss, want), (same, got) = (Ours(m, given.threads, 0.0, k).gradients(batch, labels) for m, k in kinds)
        if loss != same or not all(np.array_equal(g, got[n]) for n, g in want.items() if not n.endswith("_high")):
            raise SystemExit("NumPy's fake quantization and the kernels' have different bits")
        ours = [Ours(m, given.threads, given.dropout, k) for m, k in ((model, None), *kinds)]
        seconds = timed([lambda one=one: one.step(batch, labels) for one in ours], given.steps)
    names = "f32", "fake, NumPy", "fake, kernels"
    print(f"{given.threads} threads, {given.steps} steps in turns; best, and median of the ratios to f32:")
    for name, own in zip(names, seconds, strict=True):
        ratio = median(mine / plain for mine, plain in zip(own, seconds[0], strict=True))
        print(f"{name:14} {1e3 * min(own):5.0f} ms  {ratio:.2f}")
    if given.json:
        given.json.write_text(json.dumps(dict(zip(names, seconds, strict=True)), indent=2) + "\n")


if __name__ == "__main__":
    main()
