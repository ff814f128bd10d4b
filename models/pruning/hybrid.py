"""nn_pruning's "hybrid" on a whole model, and "hybrid filled".

    attention       q, k, v, attention_output: a score per 32x32 block,     "layer.0.q.weight" ... (m, k)
    feed-forward    a score per neuron, of its row of intermediate and of its column of output alike,
                    "layer.0.neurons" (F,); its gradient is the sum of both
    mask            sigmoid(S) > threshold; a bias lives with any weight of its row
    filled          of attention the heads that a first run kept are whole: mask or kept
    loss            lambda / 2 (mean l1 over attention's scores + mean l1 over the feed-forward blocks)

Contract. Gradients are straight through; a bias's mask gives none to the scores. Scores start at 0, so their sigmoid at
1/2, and the threshold rises from 0 to 0.1: only regularization and movement bring scores below logit(0.1) = -2.2.
Source: nn_pruning, patch_coordinator.py and modules/masked_nn.py with attention_output_with_dense false,
"sigmoied_threshold:1d_alt" for dense and "sigmoied_threshold" for attention; Lagunas et al., arXiv 2109.04838,
section 3.
"""

from collections.abc import Mapping

import numpy as np

from refimpl.models.bert import Model
from refimpl.prune import expand, masked_weight, masked_weight_backward, straight_through
from refimpl.prune.binarizers import sigmoid_threshold_mask
from refimpl.prune.blocks import block_count
from refimpl.prune.fine_pruning import bias_mask, filled_heads, l1, l1_backward
from refimpl.prune.resolution import ATTENTION, FEED_FORWARD

BLOCK = (32, 32)
NEURONS = ".neurons"

Arrays = Mapping[str, np.ndarray]


def initial_scores(model: Model, block: tuple[int, int] = BLOCK) -> dict[str, np.ndarray]:
    """Zeros, f32. Raises ValueError where the block does not divide a weight of attention."""
    scores = {}
    for i, layer in enumerate(model.layers):
        for name in ATTENTION:
            scores[f"layer.{i}.{name}.weight"] = np.zeros(block_count(getattr(layer, name).weight, block), np.float32)
        scores[f"layer.{i}{NEURONS}"] = np.zeros(len(layer.intermediate.bias), np.float32)
    return scores


def masks_of(
    scores: Arrays, threshold: float, block: tuple[int, int] = BLOCK, kept: Arrays | None = None
) -> dict[str, np.ndarray]:
    """bool masks of weights and biases. kept: "layer.0" -> bool (H,), the heads of a first run, for "hybrid filled"."""
    masks: dict[str, np.ndarray] = {}
    for name, array in scores.items():
        layer, _, last = name.rpartition(".")
        live = sigmoid_threshold_mask(array, threshold)
        if f".{last}" == NEURONS:
            # What does not depend on the other axis is one row or column, and is repeated where it meets the weight.
            masks |= {f"{layer}.intermediate.weight": live[:, None], f"{layer}.output.weight": live[None, :]}
            continue
        mask = expand(live, block)
        if kept is not None:
            stem, _, part = layer.rpartition(".")
            mask = filled_heads(mask, kept[stem], ATTENTION[part])
        masks[name] = mask
    return masks | {name.removesuffix("weight") + "bias": bias_mask(mask) for name, mask in masks.items()}


def effective(parameters: Arrays, masks: Arrays) -> dict[str, np.ndarray]:
    """What the model runs on. parameters: of the whole model, by name; those without a mask are handed on."""
    return dict(parameters) | {
        name: masked_weight(parameters[name], _whole(parameters[name], masks[name])) for name in masks
    }


def effective_backward(
    gradients: Arrays, parameters: Arrays, masks: Arrays, block: tuple[int, int] = BLOCK
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gradients of the parameters and of the scores, from those of what ``effective`` returned."""
    made = dict(gradients)
    scores: dict[str, np.ndarray] = {}
    for name, mask in masks.items():
        upstream, w = gradients[name], parameters[name]
        made[name] = masked_weight_backward(upstream, _whole(w, mask))
        layer, _, part = name.removesuffix(".weight").rpartition(".")
        if name.endswith(".bias"):
            continue
        if part in FEED_FORWARD:
            unit = (1, w.shape[1]) if FEED_FORWARD[part] else (w.shape[0], 1)
            found = straight_through(upstream, w, unit).ravel()
            scores[layer + NEURONS] = scores[layer + NEURONS] + found if layer + NEURONS in scores else found
        else:
            scores[name] = straight_through(upstream, w, block)
    return made, scores


def regularization_loss(scores: Arrays, factor: float) -> tuple[float, dict[str, np.ndarray]]:
    """The loss with ``factor`` = lambda(t), f64, and its gradient by score."""
    groups = [[name for name in scores if name.endswith(NEURONS) == dense] for dense in (False, True)]
    weight = {name: factor / len(groups) / len(group) for group in groups for name in group}
    loss = sum(weight[name] * l1(array) for name, array in scores.items())
    return loss, {name: (weight[name] * l1_backward(array)).astype(array.dtype) for name, array in scores.items()}


def _whole(w: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.broadcast_to(mask, w.shape)
