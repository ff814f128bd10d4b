"""NNCF's configuration of movement sparsity and quantization, the JSON of JPQD, as a recipe of one stage.

    [{"algorithm": "movement_sparsity",
      "params": {"warmup_start_epoch": 1, "warmup_end_epoch": 4, "importance_regularization_factor": 0.01,
                 "enable_structured_masking": true},
      "sparse_structure_by_scopes": [{"mode": "block", "sparse_factors": [32, 32], "target_scopes": "..."}, ...],
      "ignored_scopes": [...]},
     {"algorithm": "quantization", "weights": {"mode": "symmetric"}, "activations": {"mode": "symmetric"}}]

The list alone, or an object whose "compression" it is. What NNCF leaves to the command (epochs, learning rate,
distillation) is what the examples of Optimum give: ``COMMANDS``. Scopes are regular expressions over names of PyTorch
modules; which layers they mean is fixed here as in those examples: attention in blocks, BertIntermediate by rows,
BertOutput by columns. Anything else is refused: embeddings, norms and heads of the task are never pruned here.
Quantization here is symmetric; of the files of Optimum, whose preset is "mixed" (asymmetric activations), a warning
says what has no effect.
Source: Optimum Intel v1.16.1, examples/openvino/*/configs/*.json and README; NNCF v2.14, MovementSparsity.md.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from refimpl.models.recipes.keys import check_keys
from refimpl.models.recipes.kinds import Distillation, Movement, QuantizeAware
from refimpl.models.recipes.recipe import Recipe, Stage

MOVEMENT, QUANTIZATION = "movement_sparsity", "quantization"
COMMANDS: dict[str, dict[str, Any]] = {
    "sst2": {"epochs": 5, "learning_rate": 2e-5, "batch": 32},
    "squad": {"epochs": 8, "learning_rate": 3e-5, "batch": 16},
}
"""Of Optimum's examples; both distil with weight 0.9 and temperature 2."""
PARAMS = {
    "warmup_start_epoch": "warmup_start_epoch",
    "warmup_end_epoch": "warmup_end_epoch",
    "importance_regularization_factor": "factor",
    "final_importance_threshold": "final_threshold",
    "enable_structured_masking": "structured",
}
WITHOUT_EFFECT = ("preset", "initializer", "scope_overrides", "ignored_scopes", "quantize_outputs")
"""Of quantization: activations are symmetric, ranges observed as the stage's defaults say, attention is f32."""
STRUCTURES = {"BertAttention": ("block", None), "BertIntermediate": ("per_dim", 0), "BertOutput": ("per_dim", 1)}
"""What a scope must name -> mode and axis."""


def parse(values: Any, name: str, task: str) -> Recipe:
    """The JSON's value as a recipe. Raises ValueError for what is not followed."""
    if isinstance(values, dict) and "compression" in values:
        values = values["compression"]
    algorithms = values if isinstance(values, list) else [values]
    if not all(isinstance(part, dict) for part in algorithms):
        raise ValueError("need a list of algorithms, each an object")
    by_name = {part.get("algorithm"): part for part in algorithms}
    strange = [kind for kind in by_name if kind not in (MOVEMENT, QUANTIZATION)]
    if strange or len(by_name) != len(algorithms):
        raise ValueError(
            f"algorithm is {strange or list(by_name)!r:.80}; need {MOVEMENT} and {QUANTIZATION}, once each"
        )
    if task not in COMMANDS:
        raise ValueError(f"the task is {task}; need {' or '.join(COMMANDS)} for an NNCF configuration")
    common = {**COMMANDS[task], "distil": Distillation()}
    quantization = _quantization(by_name[QUANTIZATION]) if QUANTIZATION in by_name else None
    stage: Stage
    if MOVEMENT not in by_name:
        stage = QuantizeAware(**common, **(quantization or {}))
    else:
        more = quantization or {}
        stage = Movement(**common, **_movement(by_name[MOVEMENT]), **more, quantize=quantization is not None)
    return Recipe(name, "from an NNCF configuration", (stage,))


def _movement(values: Mapping[str, Any]) -> dict[str, Any]:
    params = values.get("params", {})
    if not isinstance(params, dict):
        raise ValueError(f"params is {params!r:.80}; need an object")
    check_keys(values, ("algorithm", "params", "sparse_structure_by_scopes", "ignored_scopes"))
    check_keys(params, PARAMS)
    made: dict[str, Any] = {}
    for key, ours in PARAMS.items():
        if key in params:
            wanted = (bool,) if ours == "structured" else (int, float)
            if type(params[key]) not in wanted:
                raise ValueError(f"{key} is {params[key]!r:.80}; need {wanted[-1].__name__}")
            made[ours] = params[key] if ours == "structured" else float(params[key])
    needed = [key for key, ours in PARAMS.items() if ours in ("warmup_start_epoch", "warmup_end_epoch", "factor")]
    for key in needed:
        if key not in params:
            raise ValueError(f"params lacks {key}")
    return made | _structures(values.get("sparse_structure_by_scopes", []))


def _structures(values: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if not isinstance(values, list):
        raise ValueError(f"sparse_structure_by_scopes is {values!r:.80}; need a list")
    for part in values:
        scopes = part.get("target_scopes") if isinstance(part, dict) else None
        texts = scopes if isinstance(scopes, list) else [scopes]
        found = [key for key in STRUCTURES if all(isinstance(text, str) and key in text for text in texts)]
        if len(found) != 1:
            raise ValueError(f"target_scopes is {scopes!r:.80}; need one of {', '.join(STRUCTURES)} in it")
        mode, axis = STRUCTURES[found[0]]
        if part.get("mode") != mode or part.get("axis") != axis:
            told = f"mode {mode}" + ("" if axis is None else f", axis {axis}")
            raise ValueError(f"the structure of {found[0]} is {part!r:.120}; need {told}")
        if mode == "block":
            block = part.get("sparse_factors")
            if not isinstance(block, list) or not all(type(size) is int for size in block):
                raise ValueError(f"sparse_factors is {block!r:.80}; need rows and columns")
            made["block"] = tuple(block)
    return made


def _quantization(values: Mapping[str, Any]) -> dict[str, Any]:
    check_keys(values, ("algorithm", "weights", "activations", "overflow_fix", *WITHOUT_EFFECT))
    for part in ("weights", "activations"):
        settings = values.get(part, {})
        if not isinstance(settings, dict) or settings.get("mode", "symmetric") != "symmetric":
            raise ValueError(f"{part} is {settings!r:.80}; need an object with the mode symmetric")
    without = [key for key in WITHOUT_EFFECT if key in values]
    if without:
        warnings.warn(
            f"{', '.join(without)} of {QUANTIZATION}: no effect; a TOML recipe has observer and samples", stacklevel=2
        )
    fix = values.get("overflow_fix", "disable")
    if not isinstance(fix, str):
        raise ValueError(f"overflow_fix is {fix!r:.80}; need a text")
    return {"overflow_fix": fix}
