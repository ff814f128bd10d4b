"""Which form of its weight each linear layer gets: the one that is fastest here, measured as the model is loaded.

All forms give the same integers, so the choice changes time and nothing else; the precision of a layer, which changes
numbers, is never chosen here.

Layers of one shape and about as much work (``Kind``) are timed once. What is timed is what a pass of the model does:
one product, with weights that come from wherever the other layers have left them, since before each sample as many
bytes are read as those would take in the same form. Samples are taken in turns, and the least of a form counts: of two
that agree, if there is time for that. It is one thread that is timed: threads share out a product evenly, so that the
forms keep their order, while threads that wait for each other would measure who else uses the machine.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels import execution
from refimpl.kernels.compilation import Say
from refimpl.kernels.encoder.forms import FORMS, Form, density
from refimpl.kernels.layout import aligned
from refimpl.kernels.layout.bsr4x1 import Bsr4x1
from refimpl.kernels.simd.threefold import KernelSource
from refimpl.models.runtime.compiling import compile_first
from refimpl.models.runtime.widths import choose_width, version

TOKENS = 64
"""One wide panel: each weight is read once, as in a short text; every further panel takes each form as long again."""
TURNS, BUDGET = 3, 0.25
"""Samples of each form, and seconds for more."""
NEAR = 1.1
"""Two samples agree if one is at most so many times the other."""
MOST = 2**26
"""Bytes read between samples, at most: twice a large cache."""
WORTH = 1.7
"""A form that does so many times the multiplications of another is not timed: no form multiplies so much faster."""
BUCKET = 0.05
"""Shares of the multiplications this near to each other are timed once."""


class Decision(NamedTuple):
    """What a layer got. shape: (M, K); density: share of live 4x1 blocks; microseconds: of the forms that were timed,
    none where the user or the weight left no choice."""

    layer: str
    shape: tuple[int, int]
    density: float
    form: str
    microseconds: dict[str, float]


class Kind(NamedTuple):
    """Layers that are timed together: shape; of the forms worth timing the names, and the work in units of BUCKET."""

    shape: tuple[int, int]
    forms: tuple[str, ...]
    work: tuple[int, ...]


def decide(
    weights: Mapping[str, Bsr4x1],
    form: str | Mapping[str, str] | None,
    tokens: int = TOKENS,
    say: Say | None = None,
) -> dict[str, Decision]:
    """Layer -> decision. form: for all, or by layer; those that are not named are measured. say: as in
    ``compiling.compile_first``.

    Raises ValueError for a form or a layer that does not exist.
    """
    if form is not None and not weights:
        raise ValueError(f"form is {form!r}; need none, since no layer of the model is in INT8")
    fixed = dict.fromkeys(weights, form) if isinstance(form, str) else dict(form or {})
    for layer, name in fixed.items():
        if layer not in weights:
            raise ValueError(f"form names the layer {layer!r}; need one of {', '.join(weights)}")
        if name not in FORMS:
            raise ValueError(f"the form of {layer} is {name!r}; need one of {', '.join(FORMS)}")
    kinds = {layer: _kind(weight) for layer, weight in weights.items() if layer not in fixed}
    one_of: dict[Kind, Bsr4x1] = {}
    for layer, kind in kinds.items():
        if len(kind.forms) > 1:
            one_of.setdefault(kind, weights[layer])
    found = _measure(one_of, sum(w.shape[0] * w.shape[1] for w in weights.values()), tokens, say)
    decisions = {}
    for layer, weight in weights.items():
        times: dict[str, float] = found.get(kinds[layer], {}) if layer in kinds else {}
        name = fixed.get(layer) or min(times, key=times.__getitem__, default=next(iter(FORMS)))
        decisions[layer] = Decision(layer, weight.shape, density(weight), name, times)
    return decisions


def _kind(weight: Bsr4x1) -> Kind:
    work = {name: form.work(weight) for name, form in FORMS.items()}
    worth = {name: share for name, share in work.items() if share <= WORTH * min(work.values())}
    return Kind(weight.shape, tuple(worth), tuple(round(share / BUCKET) for share in worth.values()))


def _measure(
    weights: Mapping[Kind, Bsr4x1], parameters: int, tokens: int, say: Say | None
) -> dict[Kind, dict[str, float]]:
    """Kind -> form -> microseconds of one product."""
    if not weights:
        return {}
    runs: dict[Kind, dict[str, Run]] = {}
    for kind, weight in weights.items():
        runs[kind] = {name: _prepared(FORMS[name], weight, tokens) for name in kind.forms}
    compile_first([run.call for by_name in runs.values() for run in by_name.values()], say)
    others = np.ones(MOST // 8, np.uint64)
    taken: dict[Kind, dict[str, list[float]]] = {kind: {name: [] for name in kind.forms} for kind in runs}
    begin, working = time.perf_counter(), True
    while working:
        working, late = False, time.perf_counter() - begin > BUDGET
        for kind, by_name in runs.items():
            for name in _open(taken[kind], late):
                others[: int(by_name[name].share * parameters) // others.itemsize].sum()
                taken[kind][name].append(by_name[name].once())
                working = True
    return {kind: {name: 1e6 * min(times) for name, times in found.items()} for kind, found in taken.items()}


def _open(taken: Mapping[str, list[float]], late: bool) -> list[str]:
    """The forms that are to be timed once more: all, TURNS times; then, until it is late, those whose best two samples
    differ."""
    if len(next(iter(taken.values()))) < TURNS:
        return list(taken)
    two = {name: sorted(times)[:2] for name, times in taken.items()}
    return [name for name, (best, second) in two.items() if second > NEAR * best and not late]


class Run(NamedTuple):
    """once: seconds of one product; share: bytes of the weight for each of its M K elements; call: as in
    ``compiling.compile_first``."""

    once: Callable[[], float]
    share: float
    call: tuple[KernelSource, bool, tuple[Any, ...]]


def _prepared(form: Form, weight: Bsr4x1, tokens: int) -> Run:
    """Of a weight, with activations that do not matter."""
    (m, k), width = weight.shape, choose_width(tokens)
    tokens = -(-tokens // width) * width
    source = version(form.stores.f32, width)
    compiled = source.compiled(execution.fastest(source))
    padded = -(-m // form.tile) * form.tile
    start, ones = np.zeros(padded, np.int32), np.ones(padded, np.float32)
    x, out = aligned.flat(np.ones(tokens * k, np.uint8)), aligned.empty((tokens * m,), np.float32)
    scratch = tuple(aligned.empty((size,), dtype) for dtype, size in form.scratch(k, tokens, 1))
    arrays = form.pack(weight)
    arguments = *arrays, start, ones, ones, ones, x, k, *scratch, out

    def once() -> float:
        x.sum()
        begin = time.perf_counter()
        compiled(*arguments)
        return time.perf_counter() - begin

    return Run(once, sum(array.nbytes for array in arrays) / (m * k), (source, False, arguments))


def rows(decisions: Mapping[str, Decision]) -> list[tuple[str, str, str, str, str]]:
    """For a table: layer, shape, density, form, and the microseconds of each that was timed."""
    return [
        (
            d.layer,
            f"{d.shape[0]}x{d.shape[1]}",
            f"{d.density:.2f}",
            d.form,
            ", ".join(f"{form} {us:.0f}" for form, us in d.microseconds.items()),
        )
        for d in decisions.values()
    ]
