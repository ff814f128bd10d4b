"""Operators of the network, one file each, forward, in NumPy: f32 or f64, whichever comes in."""

from refimpl.nn.encoder_layer import encoder_layer
from refimpl.nn.ops import REFERENCE, Ops
from refimpl.nn.params import LINEARS, AttentionScales, Embeddings, EncoderLayer, Linear, Norm
from refimpl.nn.pooler import pooler
from refimpl.nn.taps import NO_TAP, NoTap, Recorder, Tap

__all__ = [
    "LINEARS",
    "NO_TAP",
    "REFERENCE",
    "AttentionScales",
    "Embeddings",
    "EncoderLayer",
    "Linear",
    "NoTap",
    "Norm",
    "Ops",
    "Recorder",
    "Tap",
    "encoder_layer",
    "pooler",
]
