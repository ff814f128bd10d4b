"""Names of the encoder's weights and biases here, "layer.0.q.weight", and in a flat dictionary of parameters.

A trainer's dictionary may have the names of a Hugging Face checkpoint; both name the same arrays, so the arrays
themselves tell which is which.
"""

from collections.abc import Mapping

import numpy as np

from refimpl.models.bert import Model, linears
from refimpl.nn import Linear


def names_in(parameters: Mapping[str, np.ndarray], model: Model) -> dict[str, str]:
    """Our name of each weight and bias of the encoder's linear layers -> its name in ``parameters``.

    Raises ValueError where ``parameters`` does not hold the model's own array.
    """
    known = {id(array): name for name, array in parameters.items()}
    found = {}
    for layer, p in linears(model).items():
        for part in Linear._fields:
            if id(getattr(p, part)) not in known:
                raise ValueError(f"parameters lacks the array {layer}.{part} of the model; need the model's own arrays")
            found[f"{layer}.{part}"] = known[id(getattr(p, part))]
    return found
