"""What a linear layer does with a channel's accumulators before they leave the registers, and the five kernels that end
so.

    y = f32(acc) * scale[m] + bias[m]              scale: the input's times the weight's
    codes        out = quantize(y, step[m])        u8 (P, M, W)
    gelu_codes   out = quantize(gelu(y), step[m])  u8
    f32          out = y                           f32
    gelu_f32     out = gelu(y)                     f32
    sum          out = y + out                     f32, in place of the residual

Contract. Bits of ``refimpl.quant.rescale``, ``rowwise.gelu`` and ``rowwise.quantize`` one after the other.
"""

from typing import NamedTuple

from refimpl.kernels.encoder.rows import add, gelu, load_row, quantize, rescale, spread, store_codes, store_row, width
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.f32 import vbroadcastss
from refimpl.kernels.simd.threefold import KernelSource, part


@part
def layer(acc, scale, bias, m):
    """The layer's output at channel m, f32."""
    return rescale(acc, spread(vbroadcastss(scale, m)), spread(vbroadcastss(bias, m)))


@part
def store_layer_codes(out, at, acc, scale, bias, step, m):
    """Channel m as codes."""
    store_codes(out, at, quantize(layer(acc, scale, bias, m), spread(vbroadcastss(step, m))))


@part
def store_gelu_codes(out, at, acc, scale, bias, step, m):
    """GELU of channel m as codes."""
    store_codes(out, at, quantize(gelu(layer(acc, scale, bias, m)), spread(vbroadcastss(step, m))))


@part
def store_layer(out, at, acc, scale, bias, step, m):
    """Channel m in f32."""
    store_row(out, at, layer(acc, scale, bias, m))


@part
def store_gelu(out, at, acc, scale, bias, step, m):
    """GELU of channel m in f32."""
    store_row(out, at, gelu(layer(acc, scale, bias, m)))


@part
def store_sum(out, at, acc, scale, bias, step, m):
    """Channel m in f32, added to what is there."""
    store_row(out, at, add(layer(acc, scale, bias, m), load_row(out, at)))


@part
def store_six(out, at, acc, channels, scale, bias, step, m):
    """Channels m ... m + 5, or, of a last tile, the first two or four: those below ``channels``, an even number."""
    w = width()
    store_layer_codes(out, at, acc[0], scale, bias, step, m)
    store_layer_codes(out, at + w, acc[1], scale, bias, step, m + 1)
    if m + 2 < channels:
        store_layer_codes(out, at + 2 * w, acc[2], scale, bias, step, m + 2)
        store_layer_codes(out, at + 3 * w, acc[3], scale, bias, step, m + 3)
    if m + 4 < channels:
        store_layer_codes(out, at + 4 * w, acc[4], scale, bias, step, m + 4)
        store_layer_codes(out, at + 5 * w, acc[5], scale, bias, step, m + 5)


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
    parts = {"gelu_codes": store_gelu_codes, "f32": store_layer, "gelu_f32": store_gelu, "sum": store_sum}
    twins = {name: exchange(to_codes, {store_layer_codes: store}, form + name, module) for name, store in parts.items()}
    return Stores(codes=to_codes, **twins)
