"""What a method of compression does around each pass of a training: masks over parameters, and gradients of its own.

    forward     W' = W mask                        the model runs on W', in evaluation too
    backward    dW = dW' mask                      and ``more``: what else the method trains, from dW'
    update      after(state)                       new masks, a new threshold

Masks are whole, bool, by the parameters' names. Arrays that the method trains (scores) are parameters of the training
beside the model's own; those that change otherwise (masks, momentum, a threshold) are its extra arrays, which every
checkpoint holds. A method with neither is none at all: ``PLAIN``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from refimpl.models.training.checkpoint import State
from refimpl.models.training.loop import no_change
from refimpl.models.training.parameters import Parameters
from refimpl.prune.masked import masked_weight, masked_weight_backward

Arrays = Mapping[str, np.ndarray]
More = tuple[float, Parameters]
"""What is added to the loss, and gradients of what the method trains."""


def _no_masks(values: Arrays) -> Parameters:
    return {}


def _no_more(gradients: Arrays, values: Arrays, masks: Arrays) -> More:
    return 0.0, {}


@dataclass(frozen=True)
class Method:
    """Values are parameters and extra arrays by name.

    trained, extra : the arrays of the first update
    masks : values -> masks of the next pass
    stored : values -> masks in evaluation
    more : (gradients of the masked parameters, values, masks); it may change extra arrays in place
    after : as ``Job.after``
    """

    trained: Parameters = field(default_factory=dict)
    extra: Parameters = field(default_factory=dict)
    masks: Callable[[Arrays], Parameters] = _no_masks
    stored: Callable[[Arrays], Parameters] = _no_masks
    more: Callable[[Arrays, Arrays, Arrays], More] = _no_more
    after: Callable[[State], State] = no_change


PLAIN = Method()


def masked(values: Arrays, masks: Arrays) -> Parameters:
    """What the model runs on."""
    return {**values, **{name: masked_weight(values[name], mask) for name, mask in masks.items()}}


def masked_backward(gradients: Arrays, masks: Arrays) -> Parameters:
    """The gradients of the parameters, from those of what the model ran on."""
    return {name: masked_weight_backward(g, masks[name]) if name in masks else g for name, g in gradients.items()}
