"""``refimpl info``: the shape of a model, its sparsity layer by layer, its bytes part by part, and this CPU."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refimpl.kernels import cpu
from refimpl.kernels.encoder import linear_4x1
from refimpl.kernels.execution import fastest
from refimpl.kernels.layout.bsr4x1 import GROUP, ROWS
from refimpl.models.bert import Model, linears
from refimpl.models.compress import Dense, Packed, PackedLinear
from refimpl.prune import BLOCK_4X1, live_blocks


def arrays(tree: Any) -> Iterator[np.ndarray]:
    """Every array in a tree of tuples."""
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, tuple):
        for part in tree:
            yield from arrays(part)


def count_bytes(tree: Any) -> int:
    """Bytes of the arrays in a tree, each array counted once."""
    return sum({id(array): array.nbytes for array in arrays(tree)}.values())


def model_bytes(model: Model) -> int:
    """Bytes of all parameters."""
    return count_bytes((model.embeddings, model.layers, model.head))


def sparsity(layer: Any) -> float | None:
    """Share of the 4x1 blocks that are zero; None where 4 does not divide the output channels."""
    if isinstance(layer, PackedLinear):
        m, k = layer.weight.shape
        live = int(layer.weight.values.reshape(-1, ROWS, GROUP).any(1).sum())
        return 1 - live / (-(-m // ROWS) * k)
    if layer.weight.shape[0] % ROWS:
        return None
    return 1 - float(live_blocks(layer.weight, BLOCK_4X1).mean())


def gather(loaded: Dense | Packed, name: str) -> dict[str, Any]:
    """Everything that ``show`` prints, as plain data."""
    model = loaded.model
    features = cpu.features()
    return {
        "model": name,
        "stage": type(loaded).__name__,
        "config": asdict(model.config),
        "attention": "f32" if all(layer.attention_scales is None for layer in model.layers) else "INT8",
        "parameters": sum(array.size for array in {id(a): a for a in arrays(_parts(model))}.values())
        if isinstance(loaded, Dense)
        else None,
        "bytes": {
            "embeddings": count_bytes(model.embeddings),
            **{f"layer {i}": count_bytes(layer) for i, layer in enumerate(model.layers)},
            "head": model_bytes(model) - count_bytes((model.embeddings, model.layers)),
        },
        "sparsity": {layer: sparsity(p) for layer, p in linears(model).items()},
        "cpu": {"name": cpu.name(), "features": {name: name in features for name in cpu.INTEREST}},
        "kernels": fastest(linear_4x1.STORES.codes),
    }


def _parts(model: Model) -> tuple[Any, ...]:
    return model.embeddings, model.layers, model.head


def show(facts: dict[str, Any], console: Console) -> None:
    """Tables for a person."""
    shape = Table(title=escape(f"{facts['model']} ({facts['stage']})"), title_justify="left", show_header=False)
    for key, value in facts["config"].items():
        text = ", ".join(value) if isinstance(value, list | tuple) else str(value)
        shape.add_row(key.replace("_", " "), escape(text))
    shape.add_row("attention", facts["attention"])
    if facts["parameters"] is not None:
        shape.add_row("parameters", f"{facts['parameters']:,}")
    console.print(shape)
    weights = Table(title="sparsity in 4x1 blocks, and bytes", title_justify="left")
    names = list(dict.fromkeys(layer.split(".")[2] for layer in facts["sparsity"]))
    for column in ("part", *(name.replace("_", " ") for name in names), "MB"):
        weights.add_column(column, justify="left" if column == "part" else "right")
    for part, size in facts["bytes"].items():
        layer = part.replace(" ", ".")
        cells = [facts["sparsity"].get(f"{layer}.{name}") for name in names]
        weights.add_row(part, *("" if c is None else f"{c:.1%}" for c in cells), f"{size / 1e6:.2f}")
    weights.add_row("all", *("" for _ in names), f"{sum(facts['bytes'].values()) / 1e6:.2f}")
    console.print(weights)
    marks = "  ".join(f"[{'green' if have else 'dim'}]{name}[/]" for name, have in facts["cpu"]["features"].items())
    console.print(f"CPU: {facts['cpu']['name']}  {marks}")
    console.print(f"kernels that run packed models here: {facts['kernels']}")
