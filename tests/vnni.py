"""Whether engines multiply bytes exactly on this machine.

Without VNNI (AVX-512 or AVX) and AMX they add u8 x s8 products in pairs and clip to 16 bits: their INT8 is then not
what is meant, and ``refimpl`` says so. What rests on an exact engine is tested elsewhere only.
"""

import pytest

from refimpl.integer.products import pair_saturating
from refimpl.kernels import cpu
from refimpl.models.oracle.semantics import Semantics
from refimpl.models.records.semantics import DOT_PRODUCTS
from refimpl.nn import LINEARS

EXACT = bool(DOT_PRODUCTS & cpu.features())
NEEDS_VNNI = pytest.mark.skipif(not EXACT, reason="this CPU lacks VNNI: engines saturate")

SATURATED = () if EXACT else (*(f".{field}" for field in LINEARS), ".scores", ".context")
"""The ends of taps that are wrong where engines saturate: what is made of sums of products of codes."""


def here(semantics: Semantics) -> Semantics:
    """Of an engine with VNNI -> of the same on this machine."""
    return semantics if EXACT else semantics._replace(product=pair_saturating)
