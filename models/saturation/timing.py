"""What each remedy costs in time: the linear layers' products, run by the kernels that saturate, beside the unrepaired.

    dense    ``gemm_u8s8s32_pair_saturating`` on the slots: as many more steps as a repair adds slots
             before it, where the columns are neither in place nor permuted by the layer before, a gather of the codes
    4x1      ``bsgemm_4x1_u8s8s32_pair_saturating`` on the blocks as stored, whose indices gather for nothing

Contract. What is timed is what is run: one thread, on codes that the model had for the texts, weights and activations
packed beforehand, as an engine keeps them. Each product is compared, to the bit, with what is predicted for its slots
before it is timed; RuntimeError if it differs. All remedies of a layer take turns within one run, and a remedy's time
is the sum over the layers of the tenth percentile. The gather is NumPy's ``take``. Everything between the products,
which no remedy changes, is left out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.integer.pairs import add_excess
from refimpl.kernels import execution
from refimpl.kernels.bsgemm_4x1_u8s8s32_pair_saturating import BSGEMM_4X1_PAIR_SATURATING
from refimpl.kernels.gemm_u8s8s32_pair_saturating import GEMM_PAIR_SATURATING
from refimpl.models.bench.measuring import in_turns
from refimpl.models.bert import Batch
from refimpl.models.saturation.layouts import BLOCKS, DENSE, Layout
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
Product = Callable[[], object]


class Cost(NamedTuple):
    """time: of all linear layers, as a multiple of the unrepaired ones; gather: how much of it is gathering codes."""

    time: float
    gather: float


class Timed(NamedTuple):
    """kernel: which, and how compiled; tokens: in a product; costs: by remedy."""

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
    gathering = dict.fromkeys(treatments, 0.0)
    for layer, full in codes.items():
        say(f"time {layer}")
        u = np.ascontiguousarray(full[:TOKENS])
        with _contestants(layer, u, {name: treated[layer] for name, treated in treatments.items()}) as runs:
            samples = in_turns(runs, SECONDS, 1)
        for (name, gathers), sample in samples.items():
            total[name] += sample.p10
            gathering[name] += sample.p10 if gathers else 0.0
    kernel, whole = KERNELS[layout.name], total[PLAIN]
    tokens = min(TOKENS, len(next(iter(codes.values()))))
    costs = {name: Cost(total[name] / whole, gathering[name] / whole) for name in total}
    return Timed(f"{kernel.fastest()} {kernel.name}", tokens, costs)


@contextmanager
def _contestants(layer: str, u: np.ndarray, treated: dict[str, Treated]) -> Iterator[dict[tuple[str, bool], Product]]:
    """(remedy, False) -> its product, checked; (remedy, True) -> its gather, where there is one."""
    kernel = KERNELS[next(iter(treated.values())).layout.name]
    with execution.compiled(kernel.source, kernel.fastest(), 1) as compiled:
        runs: dict[tuple[str, bool], Product] = {}
        for name, t in treated.items():
            try:
                product, gather = _prepared(compiled, t, u)
            except AssertionError:
                raise RuntimeError(f"{kernel.name} of {layer} under {name} is not what its slots say") from None
            runs[name, False] = product
            if gather is not None:
                runs[name, True] = gather
        yield runs


def _prepared(compiled: Callable[..., Any], t: Treated, u: np.ndarray) -> tuple[Product, Product | None]:
    """The product and, if there is one, the gather, on arrays of their own. AssertionError unless the product of what
    was gathered is that of the slots."""
    dense = t.layout is DENSE
    kernel = KERNELS[t.layout.name]
    kept: list[Any] = []

    def keep(*arrays: Any) -> None:
        kept.extend(arrays)
        compiled(*arrays)

    gathered = u[:, t.stored.columns] if dense else u
    packed = kernel.pack(t.stored.codes) if dense else t.stored
    predicted = gemm_u8s8s32(u, t.linear.codes)
    add_excess(predicted, u, t.pairs)
    if not np.array_equal(kernel.call(keep, gathered, packed), predicted):
        raise AssertionError
    if not t.gathers:
        return lambda: compiled(*kept), None
    _, x, k, *_ = kept
    columns, into = t.stored.columns, x.reshape(-1, k)[: len(u), : gathered.shape[1]]
    into[...] = 0
    np.take(u, columns, axis=1, out=into, mode="clip")
    if not np.array_equal(into, gathered):
        raise AssertionError
    return lambda: compiled(*kept), lambda: np.take(u, columns, axis=1, out=into, mode="clip")
