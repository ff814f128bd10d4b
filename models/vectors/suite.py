"""All families, by the names of their kernels."""

import difflib
from collections.abc import Sequence

from refimpl.models.vectors import codes, halves, products, rows, sums
from refimpl.models.vectors.case import Family

FAMILIES: dict[str, Family] = {
    family.kernel: family
    for family in (*products.families(), *sums.FAMILIES, *codes.FAMILIES, *rows.FAMILIES, halves.GEMM_BF16)
}


def find(names: Sequence[str]) -> list[Family]:
    """The families of those names, or all if there are none. Raises ValueError for a name that no kernel has."""
    for name in names:
        if name not in FAMILIES:
            nearest = difflib.get_close_matches(name, FAMILIES, 1, 0)[0]
            raise ValueError(f"there are no vectors for {name!r}; nearest is {nearest}; see refimpl vectors --list")
    return [family for name, family in FAMILIES.items() if not names or name in names]
