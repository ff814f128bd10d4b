"""Which lanes of a panel are a text's, as a bit mask: several texts may share a panel."""

import numpy as np

from refimpl.kernels.encoder.rows import width
from refimpl.kernels.simd.instructions.expand import kmovq_load
from refimpl.kernels.simd.threefold import part

UP_TO = np.array([(1 << i) - 1 for i in range(65)], np.uint64)
"""Masks of bits 0 ... i-1."""


@part
def text_lanes(skip, n, panel):
    """A text's panels are counted from its first, of which it leaves out ``skip`` tokens; it has n."""
    first, last = max(skip - panel * width(), 0), min(skip + n - panel * width(), width())
    return kmovq_load(UP_TO, first) ^ kmovq_load(UP_TO, last)
