"""A session: a model, packed or f32, ready to run.

    session = Session(packed)
    output = session(ids, mask)            s64 (B, T) -> what the model's head gives
    session.run_texts(["a film that works"])

Padding is not computed: the tokens of all texts, those with a mask other than 0, are laid one after the other into
panels, each text from a multiple of ALIGN on (or in panels of its own, where attention stores f32), and a token that is
masked comes back as zeros. A text's bits do not depend on what else is in the batch, but for those of a head other than
a question answering one: its products are NumPy's and round as the size of the batch has it. A batch of a new shape
makes a new plan; the last PLANS are kept, in one arena, which grows to the largest that any of them needs and stays so.
It is proportional to the tokens of a batch, and beyond that to the panels of the longest text: DistilBERT takes 13 KB a
token. Texts have at most the model's positions, batches are as large as the caller makes them; what the memory that is
left cannot hold is refused.
"""

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from refimpl import check
from refimpl.kernels import compilation, execution
from refimpl.kernels.layout import aligned
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE
from refimpl.models.compress import Dense, Packed
from refimpl.models.runtime import plan as plans
from refimpl.models.runtime.available import available
from refimpl.models.runtime.compiling import compile_first
from refimpl.models.runtime.lines import HIDDEN, rows_of
from refimpl.models.runtime.steps import Arrays, Plan, Shape, Step, roots
from refimpl.models.runtime.weights import Weights, prepare
from refimpl.models.runtime.widths import HALF, WIDE, choose_width
from refimpl.models.tokenizer import Tokenizer
from refimpl.nn import NO_TAP, REFERENCE, Tap

PLANS = 16
ALIGN = 4
"""Tokens: attention takes four keys at once."""


Call = tuple[Callable[..., None], tuple[Any, ...]]


class Ready(NamedTuple):
    """A plan with its memory. filling, calls: execution and arguments, of each step."""

    plan: Plan
    arrays: Arrays
    filling: Call
    calls: list[Call]


class Session:
    """Runs a model. ``weights`` of another session may be given instead, and are then shared.

    lock: held by whoever uses the session's memory. execution: "native"; "portable" where this CPU lacks instructions
    of the kernels; "emulated" where numba's compiler is switched off. widths: of panels, tokens; the half one only
    where its kernels are native, since their portable form takes ten times as long.
    """

    def __init__(
        self,
        model: Dense | Packed | Weights,
        tokenizer: Tokenizer | None = None,
        threads: int = 1,
        form: str | Mapping[str, str] | None = None,
        say: compilation.Say | None = None,
    ):
        """form: of the weights, as in ``weights.prepare``; if left out, what is fastest here. say: told (done, of all)
        while kernels are compiled, from any thread; if left out, a line on a terminal.

        Raises ValueError for a model that the kernels cannot run, or for more threads than numba has.
        """
        execution.check_threads(threads)
        if form is not None and isinstance(model, Weights):
            raise ValueError("form is given, but the weights are prepared already; give it to prepare")
        self.weights = model if isinstance(model, Weights) else prepare(model, form, say=say)
        self.tokenizer = tokenizer if isinstance(model, Weights) else model.tokenizer
        self.threads, self.say = threads, say
        lack = plans.lacking(self.weights, WIDE)
        if lack:
            warnings.warn(f"this CPU lacks {', '.join(lack)}: kernels run in portable form, slower", stacklevel=2)
        self.execution = (PORTABLE if lack else NATIVE) if execution.compiles() else "emulated"
        self.widths = (WIDE,) if plans.lacking(self.weights, HALF) else (WIDE, HALF)
        self._plans: OrderedDict[Shape, Ready] = OrderedDict()
        self._arena = aligned.empty((0,), np.uint8)
        self.lock = threading.Lock()
        self._process = os.getpid()

    def __call__(self, ids: np.ndarray, mask: np.ndarray | None = None, types: np.ndarray | None = None) -> np.ndarray:
        """ids: integer (B, T); mask: integer or bool, 0 where a token is padding (none if left out); types: integer, 0
        if left out -> the head's output, f32.

        Raises TypeError or ValueError for arrays that do not fit, ids outside the vocabulary, more tokens than the
        model has positions, or a mask without a token that the head reads, before anything runs.
        """
        mask = np.ones_like(ids) if mask is None else mask
        types = np.zeros_like(ids) if types is None else types
        self.check(ids, mask, types)
        with self.lock:
            ready = self.ready(self.shape(mask))
            fill(ready, ids, mask, types)
            self.run(ready)
            return self.head(ready, mask)

    def run_texts(self, texts: Sequence[Any]) -> np.ndarray:
        """Texts, or pairs of texts, in one batch. Raises ValueError for a session without a tokenizer."""
        if self.tokenizer is None:
            raise ValueError("the session has no tokenizer; need Session(weights, tokenizer), or Session(model)")
        return self(*self.tokenizer.encode(texts))

    def shape(self, mask: np.ndarray) -> Shape:
        """Of the plan for a batch with this mask.

        A classifier reads each text's first token, so no other goes further than the last attention, unless that would
        save nothing.
        """
        counts = [int(np.count_nonzero(text)) for text in mask]
        align = ALIGN if self.weights.texts_share_panels else HALF
        first, total = lay_out(counts, align)
        width = choose_width(total, self.widths)
        if align > ALIGN:  # a text's own panels
            align = width
            first, total = lay_out(counts, align)
        most = max(-(-(at % width + count) // width) for at, count in zip(first, counts, strict=True))
        shape = Shape(width, -(-total // width), len(counts), most, mask.size, self.threads, align)
        if self.weights.config.head == "classification":
            picked = choose_width(len(counts), self.widths)
            if -(-len(counts) // picked) * picked < shape.panels * width:
                return shape._replace(picked=picked)
        return shape

    def check(self, ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> None:
        """Raises what ``__call__`` raises for arrays that do not fit."""
        config, words = self.weights.config, self.weights.scale.size
        for name, array in (("ids", ids), ("mask", mask), ("types", types)):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in ("iu" if name != "mask" else "biu"):
                raise TypeError(f"{name} is {getattr(array, 'dtype', type(array).__name__)}; need an array of integers")
            if array.ndim != 2 or array.shape != ids.shape:
                check.shape(name, array, ("B", "T") if name == "ids" else ids.shape)
        if 0 in ids.shape:
            raise ValueError(f"ids has shape {ids.shape}; need at least one text and one token")
        if ids.shape[1] > config.positions:
            raise ValueError(f"ids has {ids.shape[1]} tokens; the model has {config.positions} positions")
        read = [("ids", ids, words)] + ([("types", types, config.token_types)] if config.token_types else [])
        for name, array, count in read:
            if array.min() < 0 or array.max() >= count:
                outside = array[(array < 0) | (array >= count)]
                raise ValueError(f"{name} has the element {outside[0]}; need 0 to {count - 1}")
        if not mask.any(1).all():
            raise ValueError(f"mask has no token in text {mask.any(1).argmin()}; need at least one")
        if config.head == "classification" and not mask[:, 0].all():
            text = mask[:, 0].astype(bool).argmin()
            raise ValueError(f"mask leaves out the first token of text {text}, which classification reads")

    def ready(self, shape: Shape) -> Ready:
        """The plan for a shape, made or kept, with its memory, its kernels compiled."""
        if self.threads > 1 and os.getpid() != self._process:
            raise RuntimeError("the process was forked after this session was made; make another with threads=1")
        if shape in self._plans:
            self._plans.move_to_end(shape)
            return self._plans[shape]
        plan = plans.make_plan(self.weights, shape)
        if plan.arena.peak > self._arena.size:
            self._plans.clear()
            self._arena = aligned.empty((0,), np.uint8)  # given back before more is taken
            self._arena = allocate(plan)
        while len(self._plans) >= PLANS:
            self._plans.popitem(last=False)
        ready = bind(plan, self._arena)
        self._compile(ready)
        self._plans[shape] = ready
        return ready

    def _compile(self, ready: Ready) -> None:
        first, *rest = zip((ready.plan.filling, *ready.plan.steps), (ready.filling, *ready.calls), strict=True)
        calls = [(*first, False), *((*call, self.threads > 1) for call in rest)]
        compile_first([(step.kernel, parallel, arguments) for step, (_, arguments), parallel in calls], self.say)

    def run(self, ready: Ready, look: Callable[[Step, Ready], None] | None = None) -> None:
        """All steps; after each, ``look`` is told."""
        with execution.parallel(self.threads) if self.threads > 1 else nullcontext():
            for step, (run, arguments) in zip(ready.plan.steps, ready.calls, strict=True):
                run(*arguments)
                if look is not None:
                    look(step, ready)

    def head(self, ready: Ready, mask: np.ndarray, tap: Tap = NO_TAP) -> np.ndarray:
        """The output of the model's head after a run: in NumPy, if it is not in the plan."""
        rows = ready.arrays[HIDDEN].reshape(len(mask), rows_of(ready.plan.shape) // len(mask), -1)
        if self.weights.outputs is not None:
            return rows.copy()
        return np.asarray(self.weights.head(rows, mask, REFERENCE, tap))


def lay_out(counts: Sequence[int], align: int) -> tuple[list[int], int]:
    """Texts of so many tokens -> where each begins, as ``embed.side_by_side`` lays them, and the end of the last."""
    *first, end = accumulate((-(-count // align) * align for count in counts), initial=0)
    return first, end


def allocate(plan: Plan) -> np.ndarray:
    """An arena. Raises ValueError if the system has no memory for it."""
    need, rows, left = plan.arena.peak, plan.shape.rows, available()
    try:
        if need <= left:
            return aligned.empty((need,), np.uint8)
    except MemoryError:  # a limit that is not asked for beforehand
        left = 0
    raise ValueError(
        f"a batch of {plan.shape.texts} texts, {rows} tokens with padding, needs {need / 1e9:.2f} GB beside the "
        f"weights; {left / 1e9:.2f} GB are left; give it in parts"
    )


def bind(plan: Plan, arena: np.ndarray) -> Ready:
    """The plan's tensors as views of the arena, and each step's arguments."""
    arrays: Arrays = {}
    root = roots(plan.inputs, plan.steps)
    tensors = dict(plan.inputs)
    for step in plan.steps:
        tensors |= step.writes | step.scratch
    for name, tensor in tensors.items():
        start = plan.arena.offsets[root[name]]
        arrays[name] = arena[start : start + tensor.nbytes].view(tensor.dtype)

    def call(step: Step, parallel: bool) -> Call:
        return step.kernel.compiled(execution.fastest(step.kernel), parallel=parallel), step.arguments(arrays)

    calls = [call(step, plan.shape.threads > 1) for step in plan.steps]
    return Ready(plan, arrays, call(plan.filling, parallel=False), calls)


def fill(ready: Ready, ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> None:
    """Lay a batch into the plan's inputs, on one thread."""
    for name, array in zip(plans.ROWS, (ids, mask, types), strict=True):
        ready.arrays[name][:] = array.reshape(-1)
    run, arguments = ready.filling
    run(*arguments)
