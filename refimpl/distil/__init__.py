"""Distillation: every loss of the papers and tools by its own name, with its gradient at the student's output."""

from refimpl.distil.hidden import (
    MatchedLoss,
    hidden_kl,
    hidden_kl_unmatched_inc,
    hidden_l1,
    hidden_mse,
    matched,
)
from refimpl.distil.logits import kl_batchmean, kl_element_mean, mse_logits, soft_cross_entropy, start_end
from refimpl.distil.loss import Loss, weighted_sum
from refimpl.distil.self_distillation import inc_self, inc_self_meant, l2_distance, tempered
from refimpl.distil.tokens import (
    DISTILBERT_COMMAND,
    DistilBertLoss,
    DistilBertWeights,
    cosine_tokens,
    distilbert,
    kl_tokens,
    mse_tokens,
    of_tokens,
)

__all__ = [
    "DISTILBERT_COMMAND",
    "DistilBertLoss",
    "DistilBertWeights",
    "Loss",
    "MatchedLoss",
    "cosine_tokens",
    "distilbert",
    "hidden_kl",
    "hidden_kl_unmatched_inc",
    "hidden_l1",
    "hidden_mse",
    "inc_self",
    "inc_self_meant",
    "kl_batchmean",
    "kl_element_mean",
    "kl_tokens",
    "l2_distance",
    "matched",
    "mse_logits",
    "mse_tokens",
    "of_tokens",
    "soft_cross_entropy",
    "start_end",
    "tempered",
    "weighted_sum",
]
