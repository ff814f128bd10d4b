"""Masked language modelling: hide some tokens of a text, and ask for them.

    of the tokens that are not special, 15 % are chosen:    80 % become [MASK]
                                                            10 % become a random token of the vocabulary
                                                            10 % stay as they are
    labels = the chosen tokens' own ids, IGNORED elsewhere

Contract. Each token is chosen on its own, with probability 0.15; a text in which none was chosen has none. Random
tokens are uniform over all ids of the vocabulary. The draws are two uniform numbers and one id a token of the batch,
padding included, in this order, so that the same generator and shape give the same masks.
Source: BERT, arXiv 1810.04805, section 3.1, task 1, and appendix A.1.
"""

from typing import NamedTuple

import numpy as np

from refimpl import check

CHOSEN, TO_MASK, TO_RANDOM = 0.15, 0.8, 0.1
IGNORED = -100


class Masked(NamedTuple):
    """ids, labels: s64 (B, T)."""

    ids: np.ndarray
    labels: np.ndarray


def mask_tokens(
    ids: np.ndarray, ordinary: np.ndarray, mask_id: int, vocabulary: int, generator: np.random.Generator
) -> Masked:
    """A batch with tokens hidden.

    Parameters
    ----------
    ids : s64 (B, T)
    ordinary : bool (B, T), False for special tokens and padding
    mask_id : the id of [MASK]
    vocabulary : how many ids there are
    """
    check.dtype("ids", ids, np.int64)
    check.dtype("ordinary", ordinary, np.bool_)
    check.shape("ordinary", ordinary, ids.shape)
    if not 0 <= mask_id < vocabulary:
        raise ValueError(f"mask_id is {mask_id}; need 0 to {vocabulary - 1}")
    chosen = (generator.random(ids.shape) < CHOSEN) & ordinary
    fate = generator.random(ids.shape)
    others = generator.integers(vocabulary, size=ids.shape)
    hidden = np.where(fate < TO_MASK, mask_id, np.where(fate < TO_MASK + TO_RANDOM, others, ids))
    return Masked(np.where(chosen, hidden, ids), np.where(chosen, ids, IGNORED))
