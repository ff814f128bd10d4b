"""The operators, one family a file: (domain, operator type) -> ``Operator``."""

from refimpl.models.oracle.operator import Operator
from refimpl.models.oracle.ops import (
    attention,
    blocks,
    elementwise,
    integers,
    movement,
    products,
    quantized,
    rowwise,
    selection,
)

OPERATORS: dict[tuple[str, str], Operator] = {
    **elementwise.OPERATORS,
    **selection.OPERATORS,
    **movement.OPERATORS,
    **rowwise.OPERATORS,
    **products.OPERATORS,
    **quantized.OPERATORS,
    **integers.OPERATORS,
    **attention.OPERATORS,
    **blocks.OPERATORS,
}
