"""One encoder layer with post-layer-normalization: x = LN(x + attention(x)); x = LN(x + feed_forward(x)).

The wiring is written against an op table, so that the reference, a compiled engine, an exporter and a judge of other
engines all run these lines. Source: Vaswani et al., arXiv 1706.03762, section 3.1; BERT keeps the norm after the sum.
"""

from typing import TYPE_CHECKING, Any

from refimpl.nn.attention import attention
from refimpl.nn.feed_forward import feed_forward
from refimpl.nn.params import EncoderLayer
from refimpl.nn.taps import NO_TAP, Tap

if TYPE_CHECKING:
    from refimpl.nn.ops import Ops


def encoder_layer(x: Any, mask: Any, p: EncoderLayer, heads: int, ops: "Ops", tap: Tap = NO_TAP) -> Any:
    """x (B, T, D), mask (B, T) -> (B, T, D). Taps: those of both blocks, attention_norm and output_norm (B, T, D)."""
    attended = attention(x, mask, p, heads, ops, tap)
    x = tap("attention_norm", ops.add_layernorm(x, attended, p.attention_norm))
    return tap("output_norm", ops.add_layernorm(x, feed_forward(x, p, ops, tap), p.output_norm))
