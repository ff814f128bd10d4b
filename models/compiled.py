"""The op table of a packed model: the reference, with the encoder's linear layers on the 4x1 kernel."""

from typing import Any

import numpy as np

from refimpl import check
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.models.compress import PackedLinear
from refimpl.nn import NO_TAP, Ops, Tap
from refimpl.quant import QUANTIZED, integer_linear


def compiled_ops(target: str, threads: int = 1) -> Ops:
    """Target "portable" or "native"; ``BSGEMM_4X1.fastest()`` names the better one that this CPU can run."""

    def linear(x: np.ndarray, p: Any, tap: Tap = NO_TAP) -> np.ndarray:
        if not isinstance(p, PackedLinear):
            return QUANTIZED.linear(x, p, tap)
        check.last_dim("x", x, p.weight.shape[1])
        return integer_linear(x, p, lambda u: BSGEMM_4X1.run(target, u, p.weight, threads), tap)

    return QUANTIZED._replace(linear=linear)
