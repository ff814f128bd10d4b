"""Whether engines multiply bytes exactly on this machine, as ``refimpl.models.records.semantics`` says.

Without VNNI (AVX-512 or AVX) and AMX they add u8 x s8 products in pairs and clip to 16 bits: their INT8 is then not
what is meant, and ``refimpl`` says so. What rests on an exact engine is tested elsewhere only.
"""

import pytest

from refimpl.integer.products import pair_saturating
from refimpl.kernels import cpu
from refimpl.models.engines.isa import NATIVE
from refimpl.models.oracle.semantics import Semantics
from refimpl.models.records import semantics
from refimpl.nn import LINEARS

FOUND = semantics.semantics_of({"engine": "onnxruntime", "isa": NATIVE, "cpu": {"features": cpu.features()}})
SATURATES = FOUND == semantics.PAIR_SATURATING
NEEDS_VNNI = pytest.mark.skipif(FOUND != semantics.EXACT, reason="this CPU lacks VNNI: engines may saturate")
SATURATED = tuple(f".{field}" for field in LINEARS) if SATURATES else ()
"""The ends of taps that are wrong where engines saturate: what is made of sums of products of codes."""
SATURATED_ATTENTION = (*SATURATED, ".scores", ".context") if SATURATES else ()
"""The same where attention is in INT8."""


def here(exact: Semantics) -> Semantics:
    """Of an engine with VNNI -> of the same on this machine."""
    return exact._replace(product=pair_saturating) if SATURATES else exact
