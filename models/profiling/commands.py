"""The command ``profile``."""

from typing import Annotated

import typer

from refimpl.models.loading import load_for_engine, name_of, pack, positions_of
from refimpl.models.options import (
    AsJson,
    Attention,
    Batch,
    Density,
    ModelPath,
    Synthetic,
    Tokens,
    check_seconds,
    check_threads,
    lengths_of,
)
from refimpl.models.terminal import console, print_json, working

Threads = Annotated[int, typer.Option(help="Threads of the engine.")]
Seconds = Annotated[float, typer.Option(help="Time to measure.")]
All = Annotated[bool, typer.Option("--all", metavar="", help="Show every step, not those of all layers together.")]


def profile(
    model: ModelPath = None,
    synthetic: Synthetic = False,
    tokens: Tokens = None,
    batch: Batch = 1,
    density: Density = None,
    int8_attention: Attention = None,
    threads: Threads = 1,
    seconds: Seconds = 2.0,
    all_steps: All = False,
    as_json: AsJson = False,
) -> None:
    """Time every step of our engine, beside what this CPU can do: multiply-accumulates, bytes, and what bounds it."""
    import numpy as np

    from refimpl.models.bench.synthetic import random_texts
    from refimpl.models.profiling.measure import profile as measure
    from refimpl.models.profiling.show import show

    check_threads(threads)
    check_seconds(seconds)
    loaded = load_for_engine(model, density, synthetic, int8_attention)
    lengths = lengths_of(tokens, batch, positions_of(loaded))
    with working("compress and measure"):
        packed = pack(loaded, density, int8_attention)
        texts = random_texts(np.random.default_rng(0), packed.model.config, lengths)
        report = measure(packed, name_of(model, synthetic), texts, threads, seconds)
    if as_json:
        print_json(report.to_json())
    else:
        show(report, all_steps, console())
