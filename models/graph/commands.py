"""The command ``graph``."""

from typing import Annotated

import typer

from refimpl.models.loading import load_for_engine, name_of, pack, positions_of
from refimpl.models.options import AsJson, Attention, Batch, Density, ModelPath, Synthetic, Tokens, lengths_of
from refimpl.models.terminal import console, print_json, working

Layer = Annotated[int, typer.Option(help="The encoder layer to show side by side, from 0.")]
All = Annotated[bool, typer.Option("--all", metavar="", help="Show every layer, and what is around them.")]


def graph(
    model: ModelPath = None,
    synthetic: Synthetic = False,
    tokens: Tokens = None,
    batch: Batch = 1,
    density: Density = None,
    int8_attention: Attention = None,
    layer: Layer = 0,
    all_layers: All = False,
    as_json: AsJson = False,
) -> None:
    """Show the operators of a model's ONNX file, the plan that our engine makes of them, and its memory."""
    import numpy as np

    from refimpl.models.bench.synthetic import random_texts
    from refimpl.models.graph.report import look
    from refimpl.models.graph.show import show

    loaded = load_for_engine(model, density, synthetic, int8_attention)
    lengths = lengths_of(tokens, batch, positions_of(loaded))
    with working("compress"):
        packed = pack(loaded, density, int8_attention)
    config = packed.model.config
    if not 0 <= layer < config.layers:
        raise ValueError(f"--layer is {layer}; need 0 to {config.layers - 1}, the model's layers")
    report = look(packed, name_of(model, synthetic), random_texts(np.random.default_rng(0), config, lengths))
    if as_json:
        print_json(report.to_json())
    else:
        show(report, None if all_layers else layer, console())
