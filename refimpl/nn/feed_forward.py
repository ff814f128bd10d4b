"""The feed-forward block: output(GELU(intermediate(x))), D -> F -> D. Source: BERT, arXiv 1810.04805, appendix A.2."""

from typing import TYPE_CHECKING, Any

from refimpl.nn.params import EncoderLayer
from refimpl.nn.taps import NO_TAP, Tap

if TYPE_CHECKING:
    from refimpl.nn.ops import Ops


def feed_forward(x: Any, p: EncoderLayer, ops: "Ops", tap: Tap = NO_TAP) -> Any:
    """x (B, T, D) -> (B, T, D), without residual and norm. Taps: intermediate, gelu (B, T, F), output (B, T, D)."""
    hidden = tap("intermediate", ops.linear(x, p.intermediate, tap.scope("intermediate")))
    active = tap("gelu", ops.gelu(hidden))
    return tap("output", ops.linear(active, p.output, tap.scope("output")))
