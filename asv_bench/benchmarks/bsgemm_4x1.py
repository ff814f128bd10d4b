"""The block-sparse 4x1 kernel: share of the VNNI peak of one core, counted on the MACs that survive pruning."""

import time

import numpy as np

from refimpl.kernels import peak
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1, bsgemm_4x1
from refimpl.kernels.layout import aligned, panels
from refimpl.kernels.simd.threefold import NATIVE
from refimpl.prune import expand, topk_mask

TOKENS, DENSITY = 128, 0.2
ROUNDS, REPEATS = 400, 10


class ShareOfPeak:
    """Output x input channels of DistilBERT-base's linear layers, 128 tokens, 80 % of the blocks pruned, one thread."""

    params = ("768x768", "3072x768", "768x3072")
    param_names = ("shape",)
    unit = "share of peak"

    def setup(self, shape: str) -> None:
        m, k = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        w = rng.integers(-127, 128, (m, k)).astype(np.int8)
        w[w == 0] = 1
        w *= expand(topk_mask(rng.random((m // 4, k)), DENSITY))
        a = rng.integers(0, 256, (TOKENS, k)).astype(np.uint8)
        packed, x = BSGEMM_4X1.pack(w), panels.pack(a)
        out = aligned.empty((x.shape[0], m, panels.WIDTH), np.int32)
        self.arguments = (packed.indptr, packed.indices, packed.values, x.reshape(-1), k, out.reshape(-1))
        self.run = bsgemm_4x1.compiled(NATIVE)
        self.run(*self.arguments)
        if not np.array_equal(panels.unpack_accumulators(out, TOKENS), BSGEMM_4X1.oracle(a, w)):
            raise AssertionError("the kernel and its oracle differ")
        self.macs = np.count_nonzero(w) * TOKENS

    def track_share_of_peak(self, shape: str) -> float:
        best_peak, best_time = 0.0, np.inf
        for _ in range(ROUNDS):  # in turns, so that both see the same clock and the same neighbours
            best_peak = max(best_peak, peak.measure(rounds=1, steps=5_000))
            begin = time.perf_counter()
            for _ in range(REPEATS):
                self.run(*self.arguments)
            best_time = min(best_time, (time.perf_counter() - begin) / REPEATS)
        return self.macs / best_time / best_peak
