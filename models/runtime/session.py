"""A session: a model, packed or f32, ready to run.

    session = Session(packed)
    output = session(ids, mask)            s64 (B, T) -> what the model's head gives
    session.run_texts(["a film that works"])

Padding is never computed: the tokens of every text, those with a mask other than 0, are laid one after the other into
panels of their own, and a token that is masked comes back as zeros. A text's bits do not depend on what else is in the
batch. A batch of a new shape makes a new plan; the last PLANS are kept.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl import check
from refimpl.kernels import execution
from refimpl.kernels.layout import aligned
from refimpl.models.compress import Dense, Packed
from refimpl.models.runtime import plan as plans
from refimpl.models.runtime.steps import Arrays, Plan, Shape, Step, roots
from refimpl.models.runtime.weights import Weights, prepare
from refimpl.models.runtime.widths import choose_width
from refimpl.models.tokenizer import Tokenizer
from refimpl.nn import NO_TAP, REFERENCE

PLANS = 16


class Ready(NamedTuple):
    """A plan with its memory. calls: (execution, arguments) of each step."""

    plan: Plan
    arrays: Arrays
    calls: list[tuple[Callable[..., None], tuple[Any, ...]]]


class Session:
    """Runs a model. ``weights`` of another session may be given instead, and are then shared.

    lock: held by whoever uses the session's memory.
    """

    def __init__(
        self,
        model: Dense | Packed | Weights,
        tokenizer: Tokenizer | None = None,
        threads: int = 1,
        form: str | Mapping[str, str] | None = None,
    ):
        """form: of the weights, as in ``weights.prepare``; if left out, what is fastest here.

        Raises ValueError for a model that the kernels cannot run, or for more threads than numba has.
        """
        execution.check_threads(threads)
        if form is not None and isinstance(model, Weights):
            raise ValueError("form is given, but the weights are prepared already; give it to prepare")
        self.weights = model if isinstance(model, Weights) else prepare(model, form)
        self.tokenizer = tokenizer if isinstance(model, Weights) else model.tokenizer
        self.threads = threads
        self._plans: OrderedDict[Shape, Ready] = OrderedDict()
        self._arena = aligned.empty((0,), np.uint8)
        self.lock = threading.Lock()
        self._process = os.getpid()

    def __call__(self, ids: np.ndarray, mask: np.ndarray | None = None, types: np.ndarray | None = None) -> np.ndarray:
        """ids: integer (B, T); mask: integer or bool, 0 where a token is padding (none if left out); types: integer, 0
        if left out -> the head's output, f32.

        Raises TypeError or ValueError for arrays that do not fit, ids outside the vocabulary or more tokens than the
        model has positions, before anything runs.
        """
        mask = np.ones_like(ids) if mask is None else mask
        types = np.zeros_like(ids) if types is None else types
        self.check(ids, mask, types)
        with self.lock:
            ready = self.ready(self.shape(mask))
            fill(ready, ids, mask, types)
            self.run(ready)
            hidden = ready.arrays["hidden"].reshape(*ids.shape, -1)
            return np.asarray(self.weights.model.head(hidden, mask, REFERENCE, NO_TAP))

    def run_texts(self, texts: Sequence[Any]) -> np.ndarray:
        """Texts, or pairs of texts, in one batch. Raises ValueError for a session without a tokenizer."""
        if self.tokenizer is None:
            raise ValueError("the session has no tokenizer; make it from a model, not from weights")
        return self(*self.tokenizer.encode(texts))

    def shape(self, mask: np.ndarray) -> Shape:
        """Of the plan for a batch with this mask."""
        counts = np.count_nonzero(mask, axis=1)
        width = choose_width(counts)
        panels = -(-counts // width)
        return Shape(width, int(panels.sum()), len(counts), int(panels.max()), mask.size, self.threads)

    def check(self, ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> None:
        """Raises what ``__call__`` raises for arrays that do not fit."""
        config, words = self.weights.config, self.weights.scale.size
        for name, array in (("ids", ids), ("mask", mask), ("types", types)):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in ("iu" if name != "mask" else "biu"):
                raise TypeError(f"{name} is {getattr(array, 'dtype', type(array).__name__)}; need an array of integers")
            check.shape(name, array, ("B", "T") if name == "ids" else ids.shape)
        if 0 in ids.shape:
            raise ValueError(f"ids has shape {ids.shape}; need at least one text and one token")
        if ids.shape[1] > config.positions:
            raise ValueError(f"ids has {ids.shape[1]} tokens; the model has {config.positions} positions")
        for name, array, count in (("ids", ids, words), ("types", types, max(config.token_types, 1))):
            outside = array[(array < 0) | (array >= count)]
            if outside.size:
                raise ValueError(f"{name} has the element {outside[0]}; need 0 to {count - 1}")
        empty = np.flatnonzero(~np.any(mask, axis=1))
        if empty.size:
            raise ValueError(f"mask has no token in text {empty[0]}; need at least one")

    def ready(self, shape: Shape) -> Ready:
        """The plan for a shape, made or kept, with its memory."""
        if shape in self._plans:
            self._plans.move_to_end(shape)
            return self._plans[shape]
        plan = plans.make_plan(self.weights, shape)
        if plan.arena.peak > self._arena.size:
            self._plans.clear()
            self._arena = aligned.empty((plan.arena.peak,), np.uint8)
        while len(self._plans) >= PLANS:
            self._plans.popitem(last=False)
        self._plans[shape] = bind(plan, self._arena)
        return self._plans[shape]

    def run(self, ready: Ready, look: Callable[[Step, Ready], None] | None = None) -> None:
        """All steps; after each, ``look`` is told."""
        if self.threads > 1:
            if os.getpid() != self._process:
                raise RuntimeError("the process was forked after this session was made; make another with threads=1")
            execution.use_threads(self.threads)
        for step, (run, arguments) in zip(ready.plan.steps, ready.calls, strict=True):
            run(*arguments)
            if look is not None:
                look(step, ready)


def bind(plan: Plan, arena: np.ndarray) -> Ready:
    """The plan's tensors as views of the arena, and each step's arguments."""
    arrays: Arrays = {}
    root = roots(plan.inputs, plan.steps)
    tensors = dict(plan.inputs)
    for step in plan.steps:
        tensors |= step.writes | step.scratch
    for name, tensor in tensors.items():
        start = plan.arena.offsets[root[name]]
        arrays[name] = arena[start : start + tensor.size * np.dtype(tensor.dtype).itemsize].view(tensor.dtype)
    parallel = plan.shape.threads > 1
    calls = []
    for step in plan.steps:
        run = step.kernel.compiled(execution.fastest(step.kernel), parallel=parallel)
        calls.append((run, step.arguments(arrays)))
    return Ready(plan, arrays, calls)


def fill(ready: Ready, ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> None:
    """Lay a batch into the plan's inputs."""
    arrays, width = ready.arrays, ready.plan.shape.width
    for name in plans.TOKENS:
        arrays[name][:] = 0
    arrays["sources"][:] = -1
    panel, tokens = 0, ids.shape[1]
    for text in range(len(ids)):
        places = np.flatnonzero(mask[text])
        here = slice(panel * width, panel * width + places.size)
        arrays["ids"][here], arrays["types"][here], arrays["places"][here] = (
            ids[text, places],
            types[text, places],
            places,
        )
        arrays["sources"][text * tokens + places] = np.arange(here.start, here.stop)
        arrays["first"][text], arrays["lengths"][text] = panel, places.size
        panel += -(-places.size // width)
