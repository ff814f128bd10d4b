"""nn_pruning's "hybrid" around each pass of a training, and "hybrid filled": ``models.pruning.hybrid`` as a ``Method``.

Besides the scores it has as extra arrays, as ``methods``: threshold, f64 (2,), that and the regularization factor of
the next step; and sparsity.
"""

from collections.abc import Mapping

import numpy as np

from refimpl.models.bert import Model
from refimpl.models.pruning import hybrid
from refimpl.models.recipes.kinds import Hybrid
from refimpl.models.recipes.methods import SCORE, SPARSITY, THRESHOLD, noted, share
from refimpl.models.recipes.setting import Work
from refimpl.models.training.checkpoint import State
from refimpl.models.training.method import Arrays, Method, More
from refimpl.models.training.parameters import Parameters
from refimpl.prune.fine_pruning import FinePruning, fine_pruning_threshold, regu_lambda
from refimpl.prune.head_rules import nn_pruning_heads


def learned(model: Model, names: Mapping[str, str], how: Hybrid, updates: int, kept: Arrays | None = None) -> Method:
    """updates: of the whole stage; kept: "layer.0" -> bool (H,), the heads that are whole, to fill them.

    Raises ValueError where the block does not divide a weight of attention, or no update lies between the warm-ups.
    """
    schedule = FinePruning(
        updates, round(how.warmup * updates), 0.0, how.final_threshold, how.initial_warmup, how.final_warmup, how.factor
    )
    begun = hybrid.initial_scores(model, how.block)

    trained = {name: SCORE + name.removesuffix(".weight") for name in begun}  # scores have no weight decay there

    def scores(values: Arrays) -> Parameters:
        return {name: values[key] for name, key in trained.items()}

    def masks(values: Arrays) -> Parameters:
        found = hybrid.masks_of(scores(values), float(values[THRESHOLD][0]), how.block, kept)
        return {names[ours]: np.broadcast_to(mask, values[names[ours]].shape) for ours, mask in found.items()}

    def more(gradients: Arrays, values: Arrays, masks: Arrays) -> More:
        g, w, m = ({ours: each[name] for ours, name in names.items()} for each in (gradients, values, masks))
        _, found = hybrid.effective_backward(g, w, m, how.block)
        loss, pull = hybrid.regularization_loss(scores(values), float(values[THRESHOLD][1]))
        return loss, {trained[name]: own + pull[name] for name, own in found.items()}

    def after(state: State) -> State:
        state.extra[THRESHOLD][...] = at(state.step)
        state.extra[SPARSITY][state.step] = share(masks({**state.parameters, **state.extra}))
        return state

    def at(step: int) -> tuple[float, float]:
        return fine_pruning_threshold(schedule, step), regu_lambda(schedule, step)

    extra = {THRESHOLD: np.array(at(0)), SPARSITY: noted(updates, 0.0)}
    return Method({trained[name]: array for name, array in begun.items()}, extra, masks, masks, more, after)


def to_fill(begun: Work, work: Work) -> dict[str, np.ndarray]:
    """The heads of what a first run began with that it has kept, by nn_pruning's rule; ``kept`` of ``learned``."""
    config, kept = work.dense.model.config, {}
    for i, layer in enumerate(work.dense.model.layers):
        live = np.array(work.heads[i])[nn_pruning_heads(layer, config.heads_of(i))]
        kept[f"layer.{i}"] = np.isin(begun.heads[i], live)
    return kept
