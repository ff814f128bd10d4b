"""Which op table runs a model, and what that is called."""

from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.models.compiled import compiled_ops
from refimpl.models.compress import Dense, Packed
from refimpl.nn import REFERENCE, Ops


def runner(loaded: Dense | Packed) -> tuple[Ops, str]:
    """NumPy for an f32 model, the fastest execution of the 4x1 kernel that this CPU has for a packed one."""
    if isinstance(loaded, Dense):
        return REFERENCE, "f32, NumPy"
    target = BSGEMM_4X1.fastest()
    return compiled_ops(target), f"INT8, {target} {BSGEMM_4X1.name}"
