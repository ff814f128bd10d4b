"""What a linear layer does with a channel's output y, an f32 row, before it leaves the registers; and the five kernels
that end so.

    codes        out = quantize(y, step[m])        u8 (P, M, W)
    gelu_codes   out = quantize(gelu(y), step[m])  u8
    f32          out = y                           f32
    gelu_f32     out = gelu(y)                     f32
    sum          out = y + out                     f32, in place of the residual

Contract. Bits of ``rowwise.gelu`` and ``rowwise.quantize`` one after the other.
"""

from typing import NamedTuple

from refimpl.kernels.encoder.rows import add, gelu, load_row, spread, store_quantized, store_row, width
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.f32 import vbroadcastss
from refimpl.kernels.simd.threefold import KernelSource, part


@part
def store_as_codes(out, at, y, step, m):
    """Channel m as codes."""
    store_quantized(out, at, y, spread(vbroadcastss(step, m)))


@part
def store_gelu_as_codes(out, at, y, step, m):
    """GELU of channel m as codes."""
    store_quantized(out, at, gelu(y), spread(vbroadcastss(step, m)))


@part
def store_as_f32(out, at, y, step, m):
    """Channel m in f32."""
    store_row(out, at, y)


@part
def store_gelu(out, at, y, step, m):
    """GELU of channel m in f32."""
    store_row(out, at, gelu(y))


@part
def store_sum(out, at, y, step, m):
    """Channel m in f32, added to what is there."""
    store_row(out, at, add(y, load_row(out, at)))


@part
def store_six(out, at, y, channels, step, m):
    """Channels m ... m + 5, or, of a last tile, the first two or four: those below ``channels``, an even number."""
    w = width()
    store_as_codes(out, at, y[0], step, m)
    store_as_codes(out, at + w, y[1], step, m + 1)
    if m + 2 < channels:
        store_as_codes(out, at + 2 * w, y[2], step, m + 2)
        store_as_codes(out, at + 3 * w, y[3], step, m + 3)
    if m + 4 < channels:
        store_as_codes(out, at + 4 * w, y[4], step, m + 4)
        store_as_codes(out, at + 5 * w, y[5], step, m + 5)


class Stores(NamedTuple):
    """One product, five kernels of the same arguments."""

    codes: KernelSource
    gelu_codes: KernelSource
    f32: KernelSource
    gelu_f32: KernelSource
    sum: KernelSource


def stores(to_codes: KernelSource) -> Stores:
    """The kernels that a kernel named FORM_to_codes stands for: it, and its twins with the other stores."""
    form, module = to_codes.__name__.removesuffix("codes"), to_codes.emulated.__module__
    parts = {"gelu_codes": store_gelu_as_codes, "f32": store_as_f32, "gelu_f32": store_gelu, "sum": store_sum}
    twins = {name: exchange(to_codes, {store_as_codes: store}, form + name, module) for name, store in parts.items()}
    return Stores(codes=to_codes, **twins)
