"""What each remedy costs in time: the linear layers' products, run by the kernels that saturate, beside the unrepaired.

    dense    ``gemm_u8s8s32_pair_saturating`` on the slots: as many more steps as a repair adds slots
             before it, where the columns are neither in place nor permuted by the layer before, a gather of the codes
    4x1      ``bsgemm_4x1_u8s8s32_pair_saturating`` on the blocks as stored, whose indices gather for nothing
    both     one after the other, which costs two moves: the codes into panels, and the second sums out of them and
             added to the first

Contract. What is timed is what is run: one thread, on codes that the model had for the texts, weights and activations
packed beforehand, as an engine keeps them. Each product is compared, to the bit, with what is predicted for its slots
before it is timed; RuntimeError if it differs. All remedies of a layer take turns within one run, and a remedy's time
is the sum over the layers of the tenth percentile. Moves are NumPy's. Everything else between the products, which no
remedy changes, is left out.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.integer.pairs import add_excess
from refimpl.kernels import execution
from refimpl.kernels.bsgemm_4x1_u8s8s32_pair_saturating import BSGEMM_4X1_PAIR_SATURATING
from refimpl.kernels.gemm_u8s8s32_pair_saturating import GEMM_PAIR_SATURATING
from refimpl.kernels.layout import bsr4x1, panels, vnni4
from refimpl.models.bench.measuring import in_turns
from refimpl.models.bert import Batch
from refimpl.models.saturation.layouts import BLOCKS, DENSE, DENSE_AND_BLOCKS, Layout
from refimpl.models.saturation.remedies import Treated, Treatment, offered, treatment
from refimpl.models.saturation.run import prepared, recorded
from refimpl.models.saturation.subject import Subject

KERNELS = {DENSE.name: GEMM_PAIR_SATURATING, BLOCKS.name: BSGEMM_4X1_PAIR_SATURATING}
TOKENS = 128
"""At most, of those that the texts have."""
SECONDS = 0.5
"""For all remedies of a layer together."""
PLAIN = "none"

Say = Callable[[str], None]
Run = Callable[[], object]
Version = Callable[..., Any]
"""Of a kernel, compiled."""


class Cost(NamedTuple):
    """time: of all linear layers, as a multiple of the unrepaired ones; moves: the part that moves codes and sums."""

    time: float
    moves: float


class Timed(NamedTuple):
    """kernel: of the layout, and how compiled; tokens: in a product; costs: by remedy."""

    kernel: str
    tokens: int
    costs: dict[str, Cost]


def timed(
    subject: Subject, layout: Layout, batches: Sequence[Batch], done: dict[str, Treatment], say: Say = lambda step: None
) -> Timed:
    """Measure every remedy of the layout. ``say`` is told each layer. done: the treatments so far."""
    plain = treatment(subject, layout, PLAIN, done)
    codes = recorded(prepared(subject.quantized.model, plain), batches)[1]
    treatments = {name: treatment(subject, layout, name, done) for name in offered(layout)}
    total = dict.fromkeys(treatments, 0.0)
    moving = dict.fromkeys(treatments, 0.0)
    with ExitStack() as open_:
        versions = {
            name: open_.enter_context(execution.compiled(kernel.source, kernel.fastest(), 1))
            for name, kernel in KERNELS.items()
        }
        for layer, full in codes.items():
            say(f"time {layer}")
            u = np.ascontiguousarray(full[:TOKENS])
            runs = _contestants(versions, layer, u, {name: treated[layer] for name, treated in treatments.items()})
            for (name, moves), sample in in_turns(runs, SECONDS, 1).items():
                total[name] += sample.p10
                moving[name] += sample.p10 if moves else 0.0
    kernel, whole = KERNELS[layout.name], total[PLAIN]
    tokens = min(TOKENS, len(next(iter(codes.values()))))
    costs = {name: Cost(total[name] / whole, moving[name] / whole) for name in total}
    return Timed(f"{kernel.fastest()} {kernel.name}", tokens, costs)


def _contestants(
    versions: dict[str, Version], layer: str, u: np.ndarray, treated: dict[str, Treated]
) -> dict[tuple[str, bool], Run]:
    """(remedy, False) -> its product, checked; (remedy, True) -> its moves, where there are any."""
    runs: dict[tuple[str, bool], Run] = {}
    for name, t in treated.items():
        predicted = gemm_u8s8s32(u, t.linear.codes)
        add_excess(predicted, u, t.pairs)
        ready = _both(versions, t, u) if t.layout is DENSE_AND_BLOCKS else _one(versions[t.layout.name], t, u)
        if not np.array_equal(ready.result, predicted):
            raise RuntimeError(f"the product of {layer} under {name} is not what its slots say")
        runs[name, False] = ready.run
        if ready.moves is not None:
            runs[name, True] = ready.moves
    return runs


class Ready(NamedTuple):
    """result: of the product, which ``run`` repeats; moves: what comes before or after it, if anything."""

    result: np.ndarray
    run: Run
    moves: Run | None = None


def _called(name: str, version: Version, a: np.ndarray, packed: Any) -> tuple[np.ndarray, list[Any]]:
    """The product of a kernel, and what it passed to its compiled version."""
    kept: list[Any] = []

    def keep(*arguments: Any) -> None:
        kept.extend(arguments)
        version(*arguments)

    return KERNELS[name].call(keep, a, packed), kept


def _one(version: Version, t: Treated, u: np.ndarray) -> Ready:
    """In one product."""
    if t.layout is BLOCKS:
        result, blocks = _called(BLOCKS.name, version, u, t.stored)
        return Ready(result, lambda: version(*blocks))
    columns = t.stored.columns
    result, kept = _called(DENSE.name, version, u[:, columns], vnni4.pack(t.stored.codes))
    if not t.gathers:
        return Ready(result, lambda: version(*kept))
    _, x, k, *_ = kept
    into = x.reshape(-1, k)[: len(u), : columns.size]
    into[...] = 0

    def gather() -> None:
        np.take(u, columns, axis=1, out=into, mode="clip")

    gather()
    version(*kept)  # so that the result, a view of its sums, is of what was gathered
    return Ready(result, lambda: version(*kept), gather)


def _both(versions: dict[str, Version], t: Treated, u: np.ndarray) -> Ready:
    """A dense product, and one of blocks that is added to it."""
    dense, sparse = versions[DENSE.name], versions[BLOCKS.name]
    first, kept = _called(DENSE.name, dense, u[:, t.stored.first.columns], vnni4.pack(t.stored.first.codes))
    rest, blocks = _called(BLOCKS.name, sparse, u, t.stored.rest)
    sums = np.zeros_like(first)
    out = blocks[-1].reshape(-1, -(-len(t.linear.codes) // bsr4x1.ROWS) * bsr4x1.ROWS, panels.WIDTH)

    def run() -> None:
        dense(*kept)
        sparse(*blocks)

    def moves() -> None:
        panels.pack(u)
        np.add(sums, panels.unpack_accumulators(out, len(u))[:, : sums.shape[1]], out=sums)

    return Ready(first + rest, run, moves)
