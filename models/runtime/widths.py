"""Panels of 64 or of 32 tokens: which, and what differs between them."""

from collections.abc import Sequence

from refimpl.kernels.encoder import embed, half_rows
from refimpl.kernels.simd.threefold import KernelSource

WIDE, HALF = 64, 32
ORDER = {WIDE: embed.WIDE_ORDER, HALF: embed.HALF_ORDER}
"""Which token is at each position of an f32 row."""


def choose_width(tokens: int, widths: Sequence[int] = (WIDE, HALF)) -> int:
    """Tokens in a panel, for so many in all: the wide one unless the half one leaves far less padding.

    A panel of 32 tokens takes about 0.62 of the time of one of 64.
    """
    if len(widths) == 1:
        return widths[0]
    wide, half = (-(-tokens // width) for width in (WIDE, HALF))
    return HALF if 0.62 * half < wide else WIDE


def version(source: KernelSource, width: int) -> KernelSource:
    """The kernel for panels of that width."""
    return source if width == WIDE else half_rows.half(source)
