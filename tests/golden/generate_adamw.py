"""Golden updates of torch.optim.AdamW, in f64: ``python tests/golden/generate_adamw.py``. Needs torch."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

FILE = Path(__file__).parent / "training" / "adamw.safetensors"
SETTINGS = (0.9, 0.99, 1e-3, 0.1)
RATES = np.array([0.0, 0.5, 1.0, 0.75, 0.5, 0.25]) / 10


def main() -> None:
    generator = np.random.default_rng(0)
    w = torch.tensor(generator.normal(size=(4, 5)))
    w.requires_grad_()
    tensors = {"settings": np.array(SETTINGS), "rates": RATES, "w.0": w.detach().numpy().copy()}
    optimizer = torch.optim.AdamW([w], 1.0, SETTINGS[:2], SETTINGS[2], SETTINGS[3], foreach=False)
    for t, rate in enumerate(RATES, 1):
        w.grad = torch.tensor(generator.normal(size=(4, 5)) * 10.0 ** generator.integers(-4, 2, (4, 5)))
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.step()
        second = optimizer.state[w]["exp_avg_sq"]
        for name, x in (("g", w.grad), ("w", w.detach()), ("v", second)):
            tensors[f"{name}.{t}"] = x.numpy().copy()
    FILE.parent.mkdir(exist_ok=True)
    save_file(tensors, FILE)


if __name__ == "__main__":
    main()
