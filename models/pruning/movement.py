"""Movement sparsity on a whole model: where it has scores, what its steps do to all layers, and the end.

NNCF's structures for a BERT: attention in 32x32 blocks, intermediate by rows, output by columns (``JPQD``, from
Optimum's configurations). Names are those of the linear layers, "layer.0.q"; a score is called by the name with
".weight" or ".bias", so that checkpoints and the optimizer see arrays in a flat dict. Embeddings, norms and heads of
the task are not pruned. Source: Optimum Intel v1.16.1, examples/openvino/*/configs/bert-base-jpqd.json.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refimpl.models.bert import Model, linears, map_linears
from refimpl.nn import LINEARS, Linear
from refimpl.prune import masked_weight
from refimpl.prune.movement import (
    movement_mask,
    movement_weight,
    movement_weight_backward,
    per_dim,
    regularization,
    regularization_backward,
    zero_scores,
)
from refimpl.prune.movement_schedule import initial_threshold
from refimpl.prune.resolution import Masks, resolve_layer

Structure = Callable[[tuple[int, int]], tuple[int, int]]
"""The shape of a weight -> the rows and columns of its blocks."""


def jpqd(block: tuple[int, int] = (32, 32)) -> dict[str, Structure]:
    """Which structure each linear layer of an encoder layer has. The two of the feed-forward block are per neuron."""
    attention = dict.fromkeys(("q", "k", "v", "attention_output"), lambda _: block)
    return attention | {"intermediate": lambda shape: per_dim(shape, 0), "output": lambda shape: per_dim(shape, 1)}


def factors_of(model: Model, structures: Mapping[str, Structure]) -> dict[str, tuple[int, ...]]:
    """Name of a score -> the block that it stands for: (rows, columns) of a weight, (rows,) of a bias.

    Raises ValueError where a block does not divide a weight.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, p in linears(model).items():
        shape = p.weight.shape
        rows, columns = structures[name.rpartition(".")[2]](shape)
        if shape[0] % rows or shape[1] % columns:
            raise ValueError(f"{name} has the shape {shape}; need multiples of the block {rows}x{columns}")
        found |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    return found


def initial_scores(model: Model, factors: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Zeros for every score, f32."""
    layers = linears(model)
    return {name: zero_scores(_parameter(layers, name), block) for name, block in factors.items()}


def automatic_threshold(scores: Mapping[str, np.ndarray], factors: Mapping[str, tuple[int, ...]]) -> float:
    """Where the warm-up starts if nobody says: it prunes 1 of 1000 weights and biases."""
    return initial_threshold([(layer, int(np.prod(factors[name]))) for name, layer in scores.items()])


def masks_of(
    scores: Mapping[str, np.ndarray], factors: Mapping[str, tuple[int, ...]], threshold: float
) -> dict[str, np.ndarray]:
    """The masks of all weights and biases, bool, by the names of the scores."""
    return {name: movement_mask(layer, factors[name], threshold) for name, layer in scores.items()}


def resolved(model: Model, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The masks of whole heads and neurons, as the first step after the warm-up makes them."""
    made: dict[str, np.ndarray] = {}
    for i, layer in enumerate(by_layer(masks, model.config.layers)):
        for name, found in resolve_layer(layer, model.config.head_size).items():
            made |= {f"layer.{i}.{name}.weight": found.weight, f"layer.{i}.{name}.bias": found.bias}
    return made


def by_layer(masks: Mapping[str, np.ndarray], layers: int) -> list[dict[str, Masks]]:
    """The same masks per encoder layer, as ``refimpl.prune`` takes them."""
    return [
        {name: Masks(*(masks[f"layer.{i}.{name}.{part}"] for part in Masks._fields)) for name in LINEARS}
        for i in range(layers)
    ]


def effective(
    parameters: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    factors: Mapping[str, tuple[int, ...]],
    threshold: float,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the model runs on in training, and the masks. parameters: of the whole model, by name; those without scores
    are handed on as they are."""
    made, masks = dict(parameters), {}
    for name, block in factors.items():
        made[name], masks[name] = movement_weight(parameters[name], scores[name], block, threshold)
    return made, masks


def effective_backward(
    gradients: Mapping[str, np.ndarray],
    parameters: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    factors: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gradients of the parameters and of the scores, from those of what ``effective`` returned."""
    made, of_scores = dict(gradients), {}
    for name, block in factors.items():
        made[name], of_scores[name] = movement_weight_backward(gradients[name], parameters[name], masks[name], block)
    return made, of_scores


def regularization_loss(
    scores: Mapping[str, np.ndarray], factors: Mapping[str, tuple[int, ...]], factor: float
) -> tuple[float, dict[str, np.ndarray]]:
    """The mean over linear layers of what each one's weight and bias add, and its gradient."""
    layers = len({name.rpartition(".")[0] for name in scores})
    loss = sum(regularization(layer, factors[name], factor) for name, layer in scores.items()) / layers
    return loss, {
        name: regularization_backward(layer, factors[name], factor / layers) for name, layer in scores.items()
    }


def apply_masks(model: Model, masks: Mapping[str, np.ndarray]) -> Model:
    """The f32 model with zeros where a mask is False; what has no mask stays."""

    def change(name: str, p: Any) -> Any:
        parts = {
            part: masked_weight(getattr(p, part), masks[f"{name}.{part}"])
            for part in Linear._fields
            if f"{name}.{part}" in masks
        }
        return p._replace(**parts)

    return map_linears(model, change)


def _parameter(layers: Mapping[str, Any], name: str) -> np.ndarray:
    layer, _, part = name.rpartition(".")
    array: np.ndarray = getattr(layers[layer], part)
    return array
