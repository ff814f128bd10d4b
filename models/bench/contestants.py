"""Who takes part: our engine, every engine of ``refimpl.models.engines`` that is installed, and those that a user adds.

To add an engine: ``refimpl bench --engine module:function``, the module on Python's path or in the current folder, and

    def function(onnx_path, batch_size, tokens, threads):
        session = ...                                load the INT8 ONNX file (QDQ), for this shape and as many threads
        def run(ids, mask):                          s64 (batch_size, tokens) each; a token type, if asked for, is 0
            return ...                               f32, the graph's "output"
        return run

It is called once for each shape, and what it returns is judged by ``gate`` before it is timed. Its threads must not
spin between runs: others take turns with it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from refimpl.models import engines, precision
from refimpl.models.bench.variants import BF16, F32, INT8, Variant
from refimpl.models.compress import Dense, Packed
from refimpl.models.engines import Run
from refimpl.models.engines.others import load_function
from refimpl.models.runtime.plan import lacking
from refimpl.models.runtime.session import Session
from refimpl.models.runtime.weights import Weights, prepare
from refimpl.models.runtime.widths import WIDE

OURS = "refimpl"


class Candidate(NamedTuple):
    """One way for a contestant to run. open: (B, T) -> run; variant: says what is right."""

    setting: str
    variant: Variant
    open: Callable[[tuple[int, int]], Run]


class Contestant(NamedTuple):
    """An engine at a precision: the fastest of its candidates that is right counts."""

    name: str
    precision: str
    candidates: Sequence[Candidate]


def contestants(packed: Packed, variants: Sequence[Variant], threads: int, added: Sequence[str]) -> list[Contestant]:
    """Ours first, in INT8 before BF16 and f32, in each precision before the others'. added: "module:function" of the
    user's engines; ValueError if one is broken."""
    factories = {name: load_function(name) for name in added}
    floating = Dense(variants[-1].model, packed.tokenizer)
    found = [_ours(INT8, variants[0], prepare(packed), threads)]
    for name, make in factories.items():
        found.append(Contestant(name, INT8, [_added(make, v, threads) for v in variants if v.precision == INT8]))
    found += _theirs(INT8, variants, threads)
    rounded = prepare(precision.in_bf16(floating))
    if not lacking(rounded, WIDE):  # in portable form it only says that there is no such instruction here
        found.append(_ours(BF16, variants[-1], rounded, threads))
    return [*found, _ours(F32, variants[-1], prepare(floating), threads), *_theirs(F32, variants, threads)]


def _ours(name: str, variant: Variant, weights: Weights, threads: int) -> Contestant:
    session = Session(weights, threads=threads)
    return Contestant(OURS, name, [Candidate("", variant, lambda shape: lambda batch: session(*batch))])


def _theirs(name: str, variants: Sequence[Variant], threads: int) -> list[Contestant]:
    files = [variant for variant in variants if variant.precision == name]
    return [
        Contestant(
            engines.NAMES[engine],
            name,
            [
                Candidate(
                    _words(setting, variant.name), variant, partial(_open, engine, variant.path, threads, setting)
                )
                for variant in files
                for setting in engines.settings(engine)
            ],
        )
        for engine in engines.installed()
    ]


def _open(engine: str, path: Path, threads: int, setting: str, shape: tuple[int, int]) -> Run:
    return engines.open_fast(engine, path, shape, threads, setting)


def _words(*names: str) -> str:
    return ", ".join(name for name in names if name)


def _added(make: Callable[..., Any], variant: Variant, threads: int) -> Candidate:
    def open_(shape: tuple[int, int]) -> Run:
        run = make(str(variant.path), *shape, threads)
        return lambda batch: run(batch.ids, batch.mask)

    return Candidate(variant.name, variant, open_)
