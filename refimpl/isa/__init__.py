"""The meaning of every SIMD instruction that the kernels use, on NumPy registers.

A register is a 1-D array: ``u8`` (64,), ``s8`` (64,), ``s16`` (32,), ``s32`` (16,). Byte 0 is the lowest. Names are
Intel's; the operation of each is the one in the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.
"""

from refimpl.isa.arithmetic import ones_s16, vpaddd, vpdpbusd, vpmaddubsw, vpmaddwd, vpsubd, zero_s32
from refimpl.isa.expand import kmovq_load, popcnt, vpexpandb
from refimpl.isa.interleave import vpord, vpunpckhbw, vpunpckhwd, vpunpcklbw, vpunpcklwd, vpxord
from refimpl.isa.memory import (
    prefetcht0,
    vinserti64x4,
    vmovdqu8_load,
    vmovdqu8_load_low,
    vmovdqu8_store,
    vmovdqu8_store_low,
    vmovdqu8_store_masked,
    vmovdqu32_load,
    vmovdqu32_store,
    vpbroadcastd,
)

__all__ = [
    "kmovq_load",
    "ones_s16",
    "popcnt",
    "prefetcht0",
    "vinserti64x4",
    "vmovdqu8_load",
    "vmovdqu8_load_low",
    "vmovdqu8_store",
    "vmovdqu8_store_low",
    "vmovdqu8_store_masked",
    "vmovdqu32_load",
    "vmovdqu32_store",
    "vpaddd",
    "vpbroadcastd",
    "vpdpbusd",
    "vpexpandb",
    "vpmaddubsw",
    "vpmaddwd",
    "vpord",
    "vpsubd",
    "vpunpckhbw",
    "vpunpckhwd",
    "vpunpcklbw",
    "vpunpcklwd",
    "vpxord",
    "zero_s32",
]
