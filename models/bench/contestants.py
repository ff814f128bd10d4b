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

from refimpl.models import engines
from refimpl.models.bench.variants import F32, INT8, Variant
from refimpl.models.compress import Packed
from refimpl.models.engines import Run
from refimpl.models.engines.others import load_function
from refimpl.models.runtime.session import Session

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


def ours(packed: Packed, threads: int) -> Run:
    """Our engine."""
    session = Session(packed, threads=threads)
    return lambda batch: session(*batch)


def contestants(packed: Packed, variants: Sequence[Variant], threads: int, added: Sequence[str]) -> list[Contestant]:
    """Ours first, then INT8 before f32. added: "module:function" of the user's engines; ValueError if one is broken."""
    run, factories = ours(packed, threads), {name: load_function(name) for name in added}
    found = [Contestant(OURS, INT8, [Candidate("", variants[0], lambda shape: run)])]
    for name, make in factories.items():
        found.append(Contestant(name, INT8, [_added(make, v, threads) for v in variants if v.precision == INT8]))
    for precision in (INT8, F32):
        for engine in engines.installed():
            files = [variant for variant in variants if variant.precision == precision]
            candidates = [
                Candidate(
                    _words(setting, variant.name), variant, partial(_open, engine, variant.path, threads, setting)
                )
                for variant in files
                for setting in engines.settings(engine)
            ]
            found.append(Contestant(engines.NAMES[engine], precision, candidates))
    return found


def _open(engine: str, path: Path, threads: int, setting: str, shape: tuple[int, int]) -> Run:
    return engines.open_fast(engine, path, shape, threads, setting)


def _words(*names: str) -> str:
    return ", ".join(name for name in names if name)


def _added(make: Callable[..., Any], variant: Variant, threads: int) -> Candidate:
    def open_(shape: tuple[int, int]) -> Run:
        run = make(str(variant.path), *shape, threads)
        return lambda batch: run(batch.ids, batch.mask)

    return Candidate(variant.name, variant, open_)
