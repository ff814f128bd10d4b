"""The block-sparse 4x1 kernel: share of the VNNI peak of one core, counted on the MACs that survive pruning."""

from contextlib import ExitStack

import numpy as np

from benchmarks.measuring import operands, prepared, share_of_peak
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1

TOKENS, DENSITY = 128, 0.2


class ShareOfPeak:
    """Output x input channels of DistilBERT-base's linear layers, 128 tokens, 80 % of the blocks pruned, one thread."""

    params = ("768x768", "3072x768", "768x3072")
    param_names = ("shape",)
    unit = "share of peak"

    def setup(self, shape: str) -> None:
        m, k = map(int, shape.split("x"))
        a, w = operands(m, k, TOKENS, DENSITY)
        self.macs = TOKENS * np.count_nonzero(w)
        self.open = ExitStack()
        self.run = self.open.enter_context(prepared(BSGEMM_4X1, a, w))

    def teardown(self, shape: str) -> None:
        self.open.close()

    def track_share_of_peak(self, shape: str) -> float:
        return share_of_peak(self.run, self.macs)
