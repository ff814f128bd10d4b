"""The command ``tune``."""

from typing import TYPE_CHECKING, Annotated

import typer

from refimpl.models.loading import load_for_engine, name_of, pack, positions_of
from refimpl.models.options import (
    AsJson,
    Attention,
    Density,
    ModelPath,
    Synthetic,
    check_limit,
    check_seconds,
    check_tokens,
)
from refimpl.models.terminal import console, print_json, steps_bar

if TYPE_CHECKING:
    from refimpl.models.compress import Packed
    from refimpl.models.tune.splits import Row

Tokens = Annotated[int, typer.Option(help="Length of the texts.")]
Limit = Annotated[float, typer.Option(help="Milliseconds that 90 % of the batches may take.")]
Seconds = Annotated[float, typer.Option(help="Time to measure each split with each batch size.")]


def tune(
    model: ModelPath = None,
    synthetic: Synthetic = False,
    tokens: Tokens = 32,
    limit: Limit = 10.0,
    density: Density = None,
    int8_attention: Attention = None,
    seconds: Seconds = 1.0,
    as_json: AsJson = False,
) -> None:
    """Find how many instances with how many threads, and which batch size, are best on this machine."""
    from refimpl.kernels.cpu import cores
    from refimpl.models.tune.show import Report, show, to_json

    check_seconds(seconds)
    check_limit(limit)
    loaded = load_for_engine(model, density, synthetic, int8_attention)
    check_tokens([tokens], positions_of(loaded))
    packed = pack(loaded, density, int8_attention)
    rows = _measure(packed, tokens, seconds)
    report = Report(name_of(model, synthetic), len(cores()), tokens, limit / 1e3, rows)
    if as_json:
        print_json(to_json(report))
    else:
        show(report, console())


def _measure(packed: "Packed", tokens: int, seconds: float) -> "list[Row]":
    from refimpl.kernels.cpu import cores
    from refimpl.kernels.execution import most_threads
    from refimpl.models.runtime.weights import prepare
    from refimpl.models.tune.measure import BATCHES, ROUNDS, measure
    from refimpl.models.tune.splits import splits

    found = splits(len(cores()), most_threads())
    with steps_bar("prepare", ROUNDS * len(found) * len(BATCHES), remaining=True) as begin:
        return measure(
            prepare(packed), found, tokens, seconds,
            lambda split, batch: begin(f"{split.instances} x {split.threads}, batch {batch}"),
        )  # fmt: skip
