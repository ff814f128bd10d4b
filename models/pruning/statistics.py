"""What NNCF reports of movement sparsity while it trains: how much is masked, layer by layer and of the whole model.

Contract. Exact counts; a layer's sparsity is of its weight, and "share" is what part of all sparsified weights it
holds. The model's sparsity is of all its parameters, with those that have no mask (embeddings, norms, the head) and
biases, as zeros in f32 would be counted. Source: NNCF v2.14, experimental/torch/sparsity/movement/algo.py;
common/sparsity/ statistics.py. The table of whole heads and neurons is ``refimpl.prune.sparsity_table``.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from refimpl.prune.sparsity_table import sparsity


class LayerStatistics(NamedTuple):
    """One sparsified weight: its name and shape, what part of it is masked, and its part of all sparsified weights."""

    name: str
    weight_shape: tuple[int, ...]
    sparsity: float
    share: float


class MovementStatistics(NamedTuple):
    """Of the whole model, of the sparsified weights together and one by one; the threshold and factor in force."""

    model_sparsity: float
    layers_sparsity: float
    layers: tuple[LayerStatistics, ...]
    threshold: float
    factor: float


def statistics(masks: Mapping[str, np.ndarray], parameters: int, threshold: float, factor: float) -> MovementStatistics:
    """masks: bool, of weights ("....weight") and biases; parameters: how many numbers the model has in all."""
    weights = {name: mask for name, mask in masks.items() if name.endswith(".weight")}
    total = sum(mask.size for mask in weights.values())
    pruned = sum(mask.size - int(mask.sum()) for mask in masks.values())
    if not total or parameters < sum(mask.size for mask in masks.values()):
        raise ValueError(f"parameters is {parameters}; need at least what the masks cover, and a mask of a weight")
    layers = tuple(
        LayerStatistics(name.removesuffix(".weight"), mask.shape, sparsity([mask]), mask.size / total)
        for name, mask in weights.items()
    )
    return MovementStatistics(pruned / parameters, sparsity(weights.values()), layers, threshold, factor)
