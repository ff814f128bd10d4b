"""Every rung of the ladders on BERT's linear layers: share of the VNNI peak, counted on the MACs that survive pruning.

Combinations that make no sense are skipped: a rung outside the numbers of tokens that it is meant for, more threads
than there are, a CPU without AVX-512 VNNI.
"""

from contextlib import ExitStack

import numba
import numpy as np

from benchmarks.measuring import operands, prepared, share_of_peak
from refimpl.kernels import peak
from refimpl.kernels.ladder import LADDERS

RUNGS = {rung.kernel.name: rung for ladder in LADDERS.values() for rung in ladder}
SHAPES = ("768x768", "3072x768", "768x3072", "384x384", "1536x384", "384x1536")
SECONDS = 0.3


class Ladder:
    """Rung x (output x input channels) of BERT-base and MiniLM x tokens x density x threads."""

    params = (tuple(RUNGS), SHAPES, (16, 32, 64, 128, 384), (1.0, 0.2, 0.1), (1, 2))
    param_names = ("rung", "shape", "tokens", "density", "threads")
    unit = "share of peak"

    def setup(self, rung: str, shape: str, tokens: int, density: float, threads: int) -> None:
        self.open = ExitStack()
        if not RUNGS[rung].is_for(tokens):
            raise NotImplementedError(f"{rung} is not meant for {tokens} tokens")
        if threads > numba.config.NUMBA_NUM_THREADS or not peak.dot_products.runs_natively():
            raise NotImplementedError("this machine has too few cores, or no AVX-512 VNNI")
        m, k = map(int, shape.split("x"))
        a, w = operands(m, k, tokens, density)
        self.macs = tokens * np.count_nonzero(w)
        self.run = self.open.enter_context(prepared(RUNGS[rung].kernel, a, w, threads))

    def teardown(self, rung: str, shape: str, tokens: int, density: float, threads: int) -> None:
        self.open.close()

    def track_share_of_peak(self, rung: str, shape: str, tokens: int, density: float, threads: int) -> float:
        return share_of_peak(self.run, self.macs, threads, SECONDS)
