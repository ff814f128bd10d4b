"""Pattern lock: the zeros that a pruned checkpoint already has are kept zero while it is trained on.

    lock_mask              a weight lives if it is not 0: whatever blocks, heads or neurons were pruned, they stay so
    lock_mask_inc          a block lives if the SUM of its weights is not 0

The first is what PruneOFA's Model Compression Research Package does. The second is Intel Neural Compressor v2.5's
(patterns/nxm.py, get_reduced_masks_from_data): a block whose weights cancel is locked as pruned although it is alive.
In trained f32 weights that is rare; with integer codes, or weights that are multiples of one scale, it is not.
Contract of the second: the sum is in the dtype of w (s8 wraps), in any order: a sum that rounds to 0 in one order only
is a case that the original leaves to torch. A layer that the block does not divide is left unmasked by the original;
here it is a ValueError.
"""

import numpy as np

from refimpl.prune.blocks import BLOCK_4X1, block_total, expand


def lock_mask(w: np.ndarray) -> np.ndarray:
    """What may be trained: w of any dtype (...) -> bool (...)."""
    live: np.ndarray = w != 0
    return live


def lock_mask_inc(w: np.ndarray, block: tuple[int, int] = BLOCK_4X1) -> np.ndarray:
    """What Intel Neural Compressor lets be trained: w (M, K) of any dtype -> bool (M, K), whole blocks.

    >>> w = np.array([[1.0, 1.0], [-1.0, 1.0], [2.0, 0.0], [-2.0, 0.0]])
    >>> lock_mask(w)[0], lock_mask_inc(w)[0]  # the first column cancels
    (array([ True,  True]), array([False,  True]))
    """
    return expand(block_total(w, block) != 0, block)
