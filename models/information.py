"""``refimpl info``: the shape of a model, its sparsity layer by layer, its bytes part by part, and this CPU."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from refimpl.kernels import cpu
from refimpl.kernels.encoder import linear_4x1
from refimpl.kernels.execution import fastest
from refimpl.kernels.layout.bsr4x1 import ROWS, count_live
from refimpl.models.bert import Model, linears
from refimpl.models.compress import Dense, Packed, PackedLinear
from refimpl.models.config import Config, to_json
from refimpl.models.loading import EMBEDDED
from refimpl.models.runtime.steps import Shape
from refimpl.models.terminal import plain_table
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
        return 1 - count_live(layer.weight.values) / (-(-m // ROWS) * k)
    if layer.weight.shape[0] % ROWS:
        return None
    return 1 - float(live_blocks(layer.weight, BLOCK_4X1).mean())


def density_of(model: Model) -> float:
    """Of all 4x1 blocks in the encoder's layers, the share that is alive."""
    layers = linears(model).values()
    blocks = [layer.weight.shape[0] * layer.weight.shape[1] for layer in layers]
    pruned = sum((sparsity(layer) or 0.0) * count for layer, count in zip(layers, blocks, strict=True))
    return 1 - pruned / sum(blocks)


def attention_of(model: Model) -> str:
    """The precision of its attention: INT8 or f32."""
    return "f32" if all(layer.attention_scales is None for layer in model.layers) else "INT8"


def headline(name: str, config: Config, density: float) -> str:
    """A packed model in one line, with markup."""
    return f"[bold]{escape(name)}[/]: {shape_line(config)}; {density:.0%} of the 4x1 blocks"


def shape_line(config: Config) -> str:
    """The sizes that tell models apart, and the head; of heads that differ between layers the fewest and the most."""
    counts = [config.heads_of(i) for i in range(config.layers)]
    heads = "-".join(map(str, sorted({min(counts), max(counts)})))
    return f"{config.layers} layers, hidden {config.hidden}, {heads} heads, {config.head.replace('_', ' ')}"


def size_line(lengths: Sequence[int], shape: Shape) -> str:
    """A batch in one line. lengths: tokens of each text."""
    texts = f"{len(lengths)} text{'s' * (len(lengths) != 1)} of {', '.join(map(str, dict.fromkeys(lengths)))} tokens"
    full = sum(lengths) / (shape.panels * shape.width)
    return f"{texts}: {shape.panels} panel{'s' * (shape.panels != 1)} of {shape.width}, {full:.0%} full"


def machine(threads: int) -> str:
    """What a model runs on, in one line, with markup."""
    return f"{escape(cpu.name())}, {threads} thread{'s' * (threads != 1)}"


def gather(loaded: Dense | Packed, name: str) -> dict[str, Any]:
    """Everything that ``show`` prints, as plain data."""
    model = loaded.model
    features = cpu.features()
    return {
        "model": name,
        "stage": type(loaded).__name__,
        "config": to_json(model.config),
        "attention": attention_of(model),
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
    shape = plain_table(escape(f"{facts['model']} ({facts['stage']})"))
    shape.show_header = False
    for key, value in facts["config"].items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        shape.add_row(key.replace("_", " "), escape(text))
    shape.add_row("attention", facts["attention"])
    if facts["parameters"] is not None:
        shape.add_row("parameters", f"{facts['parameters']:,}")
    console.print(shape)
    weights = plain_table("sparsity in 4x1 blocks, and bytes")
    names = list(dict.fromkeys(layer.split(".")[2] for layer in facts["sparsity"]))
    for column in ("part", *(name.replace("_", " ") for name in names), "MB"):
        weights.add_column(column, justify="left" if column == "part" else "right")
    for part, size in facts["bytes"].items():
        layer = part.replace(" ", ".")
        cells = [facts["sparsity"].get(f"{layer}.{name}") for name in names]
        weights.add_row(part, *("" if c is None else f"{c:.1%}" for c in cells), f"{size / 1e6:.2f}")
    weights.add_row("all", *("" for _ in names), f"{sum(facts['bytes'].values()) / 1e6:.2f}")
    console.print(weights)
    features = facts["cpu"]["features"]
    computer = plain_table("this CPU")
    computer.show_header = False
    computer.add_row("name", facts["cpu"]["name"])
    for word, wanted in (("has", True), ("lacks", False)):
        computer.add_row(word, ", ".join(name for name, have in features.items() if have is wanted))
    computer.add_row("kernels for packed models", facts["kernels"])
    console.print(computer)
    command = shlex.join(["refimpl", "graph", *([] if facts["model"] == EMBEDDED else [facts["model"]])])
    console.print(f"what the engine chooses for each layer: {command}", markup=False, soft_wrap=True)
