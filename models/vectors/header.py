"""The C header: the drawings of the layouts, from the modules that own them, and the constants, from theirs."""

from types import ModuleType

from refimpl import __version__
from refimpl.integer.gemm import MAX_K
from refimpl.kernels.layout import bitmask, bsr4x1, bsr32x32, panels, vnni2, vnni4
from refimpl.quant import symmetric

LAYOUTS: list[ModuleType] = [vnni4, bsr4x1, bsr32x32, bitmask, vnni2, panels]

CONSTANTS = {
    "ZERO_POINT": (symmetric.ZERO_POINT, "added to an s8 code to carry it as u8"),
    "ACTIVATION_MIN": (symmetric.ACTIVATION_MIN, "of a signed activation code"),
    "ACTIVATION_MAX": (symmetric.ACTIVATION_MAX, ""),
    "WEIGHT_MAX": (symmetric.WEIGHT_MAX, "weight codes are -127 ... 127"),
    "MAX_K": (MAX_K, "more input channels could overflow an s32 sum"),
    "VNNI4_TILE": (vnni4.TILE, "output channels"),
    "VNNI4_QUAD": (vnni4.QUAD, "input channels in a dword"),
    "BSR4X1_ROWS": (bsr4x1.ROWS, "output channels in a block"),
    "BSR4X1_GROUP": (bsr4x1.GROUP, "stored columns in a group"),
    "BSR32X32_SIDE": (bsr32x32.SIDE, ""),
    "BITMASK_BITS": (bitmask.BITS, "bytes that one mask describes"),
    "VNNI2_TILE": (vnni2.TILE, "output channels"),
    "VNNI2_PAIR": (vnni2.PAIR, "input channels in a dword"),
    "PANEL_WIDTH": (panels.WIDTH, "tokens"),
}

INTERFACE = """\
typedef struct {
    char name[32], dtype[8]; /* dtype: u8 s8 u16 s32 u64 s64 f32 f64 */
    size_t offset, rank, shape[4], count;
} refimpl_tensor;

typedef struct {
    char kernel[64];
    size_t dims[128]; /* by letter: dims['K'] */
    int tensors, outputs;
    refimpl_tensor tensor[24];
    struct { char name[32]; int within; } output[4];
    unsigned char *data;
} refimpl_case;

#ifdef __cplusplus
extern "C" {
#endif

/* An array of the case by its name, at a multiple of 64 bytes; ends the program if there is none. */
const void *refimpl_get(const refimpl_case *c, const char *name);

/* You write this one: fill out, which has the shape and dtype that the output's name says in the manifest (f32 where
   the kind is "within"), from the case's inputs. Return nonzero for a kernel or an output that you do not make. */
int refimpl_kernel(const refimpl_case *c, const char *output, void *out);

#ifdef __cplusplus
}
#endif
"""


def header(version: int) -> str:
    """The text of ``refimpl_vectors.h``."""
    parts = [
        f"/* Written by refimpl {__version__}: vectors, version {version}. Arrays are little-endian and row-major. */",
        "#ifndef REFIMPL_VECTORS_H\n#define REFIMPL_VECTORS_H\n\n#include <stddef.h>\n#include <stdint.h>",
        *map(_drawing, LAYOUTS),
        "\n".join(_constant(name, *value) for name, value in {"VECTORS_VERSION": (version, ""), **CONSTANTS}.items()),
        INTERFACE,
        "#endif",
    ]
    return "\n\n".join(parts) + "\n"


def _drawing(module: ModuleType) -> str:
    return f"/* {str(module.__doc__).strip()}\n*/"


def _constant(name: str, value: int, about: str) -> str:
    return f"#define REFIMPL_{name} {f'({value})' if value < 0 else value}" + (f" /* {about} */" if about else "")
