"""What runs a model: the engine where it can, packed or in f32; callers see one interface."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.compilation import Say
from refimpl.kernels.execution import check_threads, compiles
from refimpl.models.bert import Batch, forward
from refimpl.models.compiled import compiled_ops
from refimpl.models.compress import Dense, Packed, Quantized
from refimpl.models.config import Config
from refimpl.models.runtime.plan import lacking
from refimpl.models.runtime.session import Session
from refimpl.models.runtime.weights import prepare
from refimpl.models.runtime.widths import WIDE
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
    """A session; ``say`` is the session's.

    A model that the engine cannot run is run without it, with a warning; so is one in f32 where a kernel would not be
    native, without a warning, since NumPy's products are as good as that on any CPU. Raises ValueError for more threads
    than there are.
    """
    check_threads(threads)
    try:
        weights = prepare(loaded, say=say)
    except ValueError as error:
        without = "NumPy does" if isinstance(loaded, Dense) else "NumPy and the 4x1 kernel do"
        warnings.warn(f"the engine cannot run this model: {error}; {without}", stacklevel=2)
        return _without_engine(loaded, threads)
    if isinstance(loaded, Dense) and (lacking(weights, WIDE) or not compiles()):
        return _without_engine(loaded, threads)
    session = Session(weights, threads=threads, say=say)
    precision = "f32" if isinstance(loaded, Dense) else "INT8"
    execution = f"{precision}, {session.execution} kernels, {threads_in_words(threads)}"
    return Runner(loaded.model.config, loaded.tokenizer, session, execution)


def _without_engine(loaded: Dense | Packed, threads: int) -> Runner:
    """NumPy's BLAS, too, has so many threads: left alone it takes all cores, and waits for those that others use."""
    if isinstance(loaded, Dense):
        plain = on_ops(loaded, REFERENCE, "f32, NumPy")
    else:
        target = BSGEMM_4X1.fastest()
        execution = f"INT8, {target} {BSGEMM_4X1.name} and NumPy, {threads_in_words(threads)}"
        plain = on_ops(loaded, compiled_ops(target, threads), execution)
    libraries = ThreadpoolController()

    def run(*batch: np.ndarray) -> np.ndarray:
        with libraries.limit(limits=threads):
            return plain.run(*batch)

    return plain._replace(run=run)


def threads_in_words(threads: int) -> str:
    """ "one thread", "2 threads"."""
    return "one thread" if threads == 1 else f"{threads} threads"


def on_ops(loaded: Dense | Quantized | Packed, ops: Ops, execution: str) -> Runner:
    """The wiring of ``models.bert`` with an op table."""
    return Runner(
        loaded.model.config,
        loaded.tokenizer,
        lambda *batch: forward(loaded.model, Batch(*batch), ops),
        execution,
    )
