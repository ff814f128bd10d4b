"""Arguments and options that several commands have, and what they may be."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from refimpl.models.loading import DENSITY

LONGEST = 3600.0
TOKENS = 128
MOST_BATCH = 4096

ModelPath = Annotated[
    Path | None,
    typer.Argument(help="A Hugging Face directory or a packed file; if left out, the embedded classifier."),
]
TextFile = Annotated[
    Path | None, typer.Option("--file", "--text", help="A file of texts, one a line; if left out, our own.")
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON for a program instead of tables.")]
Density = Annotated[
    float | None,
    typer.Option(help=f"Of a directory or random weights: share of the 4x1 blocks to keep; {DENSITY} if left out."),
]
Attention = Annotated[
    bool | None,
    typer.Option(
        "--int8-attention/--f32-attention",
        metavar="",
        help="What to compress attention to; INT8 if left out.",
        show_default=False,
    ),
]
Synthetic = Annotated[
    bool, typer.Option("--synthetic", metavar="", help="Random weights in DistilBERT's shape, not a model.")
]
Tokens = Annotated[
    list[int] | None, typer.Option(help=f"Length of the texts; {TOKENS} if left out; repeat it for several lengths.")
]
Batch = Annotated[int, typer.Option(help="Texts of each length in the batch.")]

Force = Annotated[bool, typer.Option("--force", metavar="", help="Replace the file if it exists.")]
Inputs = Annotated[
    Path | None, typer.Option("--inputs", metavar="FILE", help="Arrays by name: .npz, or a record's own inputs.")
]
TokenizerPath = Annotated[
    Path | None,
    typer.Option("--tokenizer", help="For texts: a Hugging Face directory or packed file; else the embedded one."),
]
Tensors = Annotated[
    list[str] | None,
    typer.Option(
        "--tensors",
        metavar="PATTERN",
        help="Expose only tensors whose names match, such as 'layer.0.*'; repeatable.",
    ),
]
Threads = Annotated[int, typer.Option(help="Threads of the engine.")]
Optimize = Annotated[
    bool, typer.Option("--optimize/--no-optimize", metavar="", help="Let the engine fuse; or every node as written.")
]
Timeout = Annotated[float, typer.Option(help="Seconds that the engine may take.")]


def lengths_of(tokens: Sequence[int] | None, batch: int, positions: int) -> list[int]:
    """The length of each text of a batch. Raises ValueError for lengths or a batch that cannot be."""
    check_tokens(tokens or [], positions)
    check_batches([batch])
    return [number for number in tokens or [min(TOKENS, positions)] for _ in range(batch)]


def check_threads(threads: int) -> None:
    """Raise ValueError unless this machine has as many CPUs."""
    most = os.cpu_count() or 1
    if not 1 <= threads <= most:
        raise ValueError(f"--threads is {threads}; need 1 to {most}, the CPUs of this machine")


def check_counts(**counts: int | None) -> None:
    """Raise ValueError for an option, by its name, that is given and below 1."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {count}; need 1 or more")


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that a checkpoint cannot hold."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed is {seed}; need 0 to 2**63 - 1")


def check_seconds(seconds: float) -> None:
    """Raise ValueError for a time that nobody can measure for, or waits for."""
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"--seconds is {seconds:g}; need more than 0 and at most {LONGEST:g}")


def check_limit(limit: float) -> None:
    """Raise ValueError for milliseconds that no batch can be held to."""
    if not 0 < limit <= LONGEST * 1e3:
        raise ValueError(f"--limit is {limit:g}; need more than 0 and at most {LONGEST * 1e3:g} milliseconds")


def check_tokens(tokens: Sequence[int], positions: int) -> None:
    """Raise ValueError unless the model has positions for texts of these lengths."""
    for number in tokens:
        if not 2 <= number <= positions:
            raise ValueError(f"--tokens is {number}; need 2 to {positions}, the model's positions")


def check_batches(batches: Sequence[int]) -> None:
    """Raise ValueError for a batch size that cannot be."""
    for number in batches:
        if not 1 <= number <= MOST_BATCH:
            raise ValueError(f"--batch is {number}; need 1 to {MOST_BATCH}")
