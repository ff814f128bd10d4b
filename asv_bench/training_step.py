"""A training step beside PyTorch's: forward pass, loss, backward pass, clipping, AdamW, on as many threads.

    python asv_bench/training_step.py [--threads 2] [--steps 10] [--dropout 0.1] [--json FILE]

The model has MiniLM's shape (6 layers, hidden 384, 12 heads, feed-forward 1536, 30,522 words, a classifier of two), as
transformers draws it; a batch is 32 x 64 tokens. Checked before anything is timed: that a loss and its gradients,
without dropout, are PyTorch's (each within SAME of the norm of its array: no derived bound, which the tests have, but
enough to tell a wrong model), and that a second run gives the same bits. Then the two take turns; told are the median
of the ratios of neighbouring steps, and the best time of each.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from transformers import BertConfig, BertForSequenceClassification

from refimpl.kernels.training.adamw import in_place
from refimpl.kernels.training.clip import global_norm, multiply
from refimpl.kernels.training.table import training
from refimpl.models.bert import Batch, Model, forward
from refimpl.models.checkpoint import load_model
from refimpl.models.training.clip import Clipping, clip
from refimpl.models.training.optimizer import Optimizer, start
from refimpl.models.training.parameters import Parameters, named, with_parameters
from refimpl.nn.adamw import AdamW
from refimpl.nn.losses import cross_entropy
from refimpl.nn.tape import Dropping, LinearKind, Tape

ROWS, TOKENS, RATE, MOST, SAME = 32, 64, 1e-5, 1.0, 1e-4
SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def drawn(dropout: float) -> tuple[Model, torch.nn.Module]:
    """The model, as refimpl's and as PyTorch's."""
    torch.manual_seed(0)
    dropped = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    module = BertForSequenceClassification(BertConfig(**SHAPE, **dropped))
    with TemporaryDirectory() as folder:
        module.save_pretrained(folder)
        return load_model(Path(folder)), module


def texts() -> tuple[Batch, np.ndarray]:
    """A batch and its labels."""
    generator = np.random.default_rng(0)
    ids = generator.integers(1000, 30000, (ROWS, TOKENS))
    return Batch(ids, np.ones_like(ids), np.zeros_like(ids)), generator.integers(0, 2, ROWS)


class Ours:
    """A copy of a model, and its steps. linears: what the tape does with layers of other kinds."""

    def __init__(self, model: Model, threads: int, dropout: float, linears: Mapping[type, LinearKind] | None = None):
        self.linears = linears
        self.values = {name: x.copy() for name, x in named(model).items()}
        self.model = with_parameters(model, self.values)
        self.threads, self.dropout, self.t = threads, dropout, 0
        self.moments, self.generator = start(self.values), np.random.default_rng(0)
        self.optimizer = Optimizer(AdamW(), rule=in_place(threads))
        self.clipping = Clipping(MOST, global_norm(threads), multiply(threads))

    def gradients(self, batch: Batch, labels: np.ndarray) -> tuple[float, Parameters]:
        """The loss, and its gradient by names."""
        tape = Tape(*training(self.threads), self.linears)
        y = forward(self.model, batch, tape.ops, Dropping(tape, self.dropout, self.generator))
        loss = cross_entropy(y.data, labels)
        by_id = tape.backward([(y, loss.gradient)])
        return float(loss.value), {name: by_id[id(x)] for name, x in self.values.items()}

    def step(self, batch: Batch, labels: np.ndarray) -> None:
        """One update."""
        self.t += 1
        _, gradients = self.gradients(batch, labels)
        clip(gradients, self.clipping.norm(gradients), MOST, self.clipping.multiply)
        self.optimizer.update(self.values, gradients, self.moments, self.t, RATE)


class Theirs:
    """The same by PyTorch."""

    def __init__(self, module: torch.nn.Module):
        self.module = module
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=RATE)

    def gradients(self, batch: Batch, labels: np.ndarray) -> tuple[float, Parameters]:
        """The loss, and its gradient by names."""
        ids, mask, types, told = map(torch.from_numpy, (*batch, labels))
        self.optimizer.zero_grad()
        loss = self.module(input_ids=ids, attention_mask=mask, token_type_ids=types, labels=told).loss
        loss.backward()
        return loss.item(), {name: p.grad.numpy() for name, p in self.module.named_parameters()}

    def step(self, batch: Batch, labels: np.ndarray) -> None:
        """One update."""
        self.gradients(batch, labels)
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), MOST)
        self.optimizer.step()


def check(model: Model, module: torch.nn.Module, batch: Batch, labels: np.ndarray, threads: int) -> float:
    """The largest distance of a gradient, relative to its norm. SystemExit where it is too far or bits differ."""
    module.eval()
    (loss, found), (again, same) = (Ours(model, threads, 0.0).gradients(batch, labels) for _ in range(2))
    want_loss, want = Theirs(module).gradients(batch, labels)
    module.train()
    if loss != again or any(not np.array_equal(g, same[name]) for name, g in found.items()):
        raise SystemExit("two runs have different bits")
    off = {name: np.abs(g - want[name]).max() / max(np.linalg.norm(want[name]), 1e-4) for name, g in found.items()}
    worst = max(off, key=lambda name: off[name])
    if off[worst] > SAME or abs(loss - want_loss) > SAME:
        raise SystemExit(f"loss {loss}, PyTorch's {want_loss}; the gradient of {worst} is {off[worst]:.1e} off")
    return float(off[worst])


def timed(steps: list[Callable[[], None]], count: int) -> list[list[float]]:
    """Seconds of each, in turns, after two that do not count."""
    found: list[list[float]] = [[] for _ in steps]
    for turn in range(-2, count):
        for step, seconds in zip(steps, found, strict=True):
            begun = perf_counter()
            step()
            if turn >= 0:
                seconds.append(perf_counter() - begun)
    return found


def arguments(doc: str) -> argparse.Namespace:
    """Of a script that times steps in turns."""
    parser = argparse.ArgumentParser(description=doc.split("\n", maxsplit=1)[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Check, time, tell."""
    given = arguments(__doc__)
    torch.set_num_threads(given.threads)
    model, module = drawn(given.dropout)
    batch, labels = texts()
    with threadpool_limits(given.threads, "blas"):
        off = check(model, module, batch, labels, given.threads)
        ours, theirs = Ours(model, given.threads, given.dropout), Theirs(module)
        seconds = timed([lambda: ours.step(batch, labels), lambda: theirs.step(batch, labels)], given.steps)
    ratio = median(mine / other for mine, other in zip(*seconds, strict=True))
    best = [min(each) for each in seconds]
    print(f"gradients within {off:.1e} of PyTorch's; {given.threads} threads, {given.steps} steps in turns, best:")
    print(f"refimpl {1e3 * best[0]:.0f} ms, PyTorch {1e3 * best[1]:.0f} ms; median of ratios {ratio:.2f}")
    if given.json:
        told = {"threads": given.threads, "ratio": ratio, "refimpl": seconds[0], "torch": seconds[1], "off": off}
        given.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
