"""The first half of softmax, down the rows of a panel: lanes are queries, rows are keys.

    e[j] = exp(x[j] - max_j x[j]),   j = 0 ... n-1         and their sum, ascending from 0

Contract. The maximum is exact; each operation rounds once, ``rowwise.exp`` has its own bound. With the sum, the
probabilities are within ``bounds.softmax``. Equal bits everywhere, and in every lane.
"""

from refimpl.kernels.encoder.rows import add, exp, larger, load_row, spread, store_row, subtract, width
from refimpl.kernels.simd.instructions.f32 import zero_f32
from refimpl.kernels.simd.threefold import part


@part
def exponentials(x, at, n, padded):
    """The n rows at x[at] in place; rows n ... padded-1 become 0. Returns the row of sums."""
    most, total = load_row(x, at), spread(zero_f32())
    for j in range(1, n):
        most = larger(load_row(x, at + j * width()), most)
    for j in range(n):
        e = exp(subtract(load_row(x, at + j * width()), most))
        store_row(x, at + j * width(), e)
        total = add(total, e)
    for j in range(n, padded):
        store_row(x, at + j * width(), spread(zero_f32()))
    return total
