"""A small training of its own, to be killed: ``python training_child.py FOLDER SECONDS_AN_UPDATE``.

Two layers, tanh, squared error, noise from the update's generator; 5 epochs of 8 updates, 2 batches each. It goes on
from FOLDER/checkpoint if that is there, and writes FOLDER/final at the end.
"""

import sys
import time
from pathlib import Path

import numpy as np

from refimpl.models.training import checkpoint
from refimpl.models.training.batches import batches
from refimpl.models.training.loop import Job, Settings
from refimpl.models.training.optimizer import Optimizer
from refimpl.models.training.run import Keeping, run_training
from refimpl.models.training.schedule import linear
from refimpl.nn.adamw import AdamW

ROWS, EPOCHS, UPDATES = 64, 5, 8
RUN = {"task": "child", "seed": 3}


def start():
    draw = np.random.default_rng(0)
    shapes = {"a.weight": (7, 5), "a.bias": (7,), "b.weight": (1, 7)}
    parameters = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return checkpoint.begin(parameters, {"seen": np.zeros((), np.int64)})


def gradients(p, rows, generator):
    draw = np.random.default_rng(1)
    x = draw.normal(size=(ROWS, 5)).astype(np.float32)[rows]
    y = np.sin(x.sum(1, keepdims=True)) + generator.normal(size=(len(rows), 1)).astype(np.float32) / 10
    hidden = np.tanh(x @ p["a.weight"].T + p["a.bias"])
    error = hidden @ p["b.weight"].T - y
    d = 2 * error / len(rows)
    inner = (d @ p["b.weight"]) * (1 - hidden**2)
    return float((error**2).mean()), {"a.weight": inner.T @ x, "a.bias": inner.sum(0), "b.weight": d.T @ hidden}


def job(pause=0.0):
    def slow(p, rows, generator):
        time.sleep(pause)
        return gradients(p, rows, generator)

    return Job(
        gradients=slow,
        batches=lambda epoch: batches([1 + i % 9 for i in range(ROWS)], 4, 3, epoch),
        evaluate=lambda p: {"norm": float(np.abs(p["a.weight"]).sum())},
        after=lambda state: state._replace(extra={"seen": state.extra["seen"] + 1}),
    )


SETTINGS = Settings(EPOCHS, 0.05, linear(EPOCHS * UPDATES, 4), Optimizer(AdamW()), seed=3, accumulate=2)


def main(folder, pause):
    path, state = folder / "checkpoint", start()
    if path.exists():
        state = checkpoint.load(path, RUN, state)
    print(state.step, flush=True)
    state = run_training(job(pause), SETTINGS, state, Keeping(path, RUN, 1), lambda p: print(p.state.step, flush=True))
    checkpoint.save(state, RUN, folder / "final")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
