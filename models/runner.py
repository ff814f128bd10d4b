"""What runs a model: the engine runs a packed one, NumPy one in f32; callers see one interface."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.compilation import Say
from refimpl.kernels.execution import check_threads
from refimpl.models.bert import Batch, forward
from refimpl.models.compiled import compiled_ops
from refimpl.models.compress import Dense, Packed, Quantized
from refimpl.models.config import Config
from refimpl.models.runtime.session import Session
from refimpl.models.tokenizer import Tokenizer
from refimpl.nn import REFERENCE, Ops


class Runner(NamedTuple):
    """A model, ready to run.

    run: (ids, mask, types), s64 (B, T) each -> the head's output, f32; execution: what runs, in words.
    """

    config: Config
    tokenizer: Tokenizer
    run: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    execution: str


def runner(loaded: Dense | Packed, threads: int = 1, say: Say | None = None) -> Runner:
    """NumPy for an f32 model, a session for a packed one; ``say`` is the session's.

    A packed model that the engine cannot run has its linear layers run on the 4x1 kernel, with a warning. Raises
    ValueError for more threads than there are.
    """
    check_threads(threads)
    if isinstance(loaded, Dense):
        return on_ops(loaded, REFERENCE, "f32, NumPy")
    words = "one thread" if threads == 1 else f"{threads} threads"
    try:
        session = Session(loaded, threads=threads, say=say)
    except ValueError as error:
        warnings.warn(f"the engine cannot run this model: {error}; NumPy and the 4x1 kernel do", stacklevel=2)
        target = BSGEMM_4X1.fastest()
        return on_ops(loaded, compiled_ops(target, threads), f"INT8, {target} {BSGEMM_4X1.name} and NumPy, {words}")
    return Runner(loaded.model.config, loaded.tokenizer, session, f"INT8, {session.execution} kernels, {words}")


def on_ops(loaded: Dense | Quantized | Packed, ops: Ops, execution: str) -> Runner:
    """The wiring of ``models.bert`` with an op table."""
    return Runner(
        loaded.model.config,
        loaded.tokenizer,
        lambda *batch: forward(loaded.model, Batch(*batch), ops),
        execution,
    )
