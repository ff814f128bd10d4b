"""NNCF's configuration of movement sparsity and quantization, the JSON of JPQD, as a recipe of one stage.

    [{"algorithm": "movement_sparsity",
      "params": {"warmup_start_epoch": 1, "warmup_end_epoch": 4, "importance_regularization_factor": 0.01,
                 "enable_structured_masking": true},
      "sparse_structure_by_scopes": [{"mode": "block", "sparse_factors": [32, 32], "target_scopes": "..."}, ...],
      "ignored_scopes": [...]},
     {"algorithm": "quantization", "weights": {"mode": "symmetric"}, "activations": {"mode": "symmetric"}}]

The list alone, or an object whose "compression" it is. What NNCF leaves to the command (epochs, learning rate,
distillation) is what the examples of Optimum give, ``COMMANDS``, unless the object says it, in a recipe's words; null
is what a stage has if nothing is said:

    {"compression": [...], "epochs": 8, "distil": null}

Scopes are matched as NNCF does, with the names of PyTorch modules. They must say what is done here: attention in
blocks, BertIntermediate by rows, BertOutput by columns, in every layer of the encoder. Anything else is refused. The
pooler and the head of the task are never pruned here; where NNCF would, element by element, since no scope ignores
them, a warning says so. Quantization here is symmetric; of the files of Optimum, whose preset is "mixed" (asymmetric
activations), a warning says what has no effect. Without overflow_fix it is "disable", as Optimum has it (NNCF:
"enable"). Source: Optimum Intel v1.16.1, examples/openvino/*/configs/*.json and README; NNCF v2.14,
MovementSparsity.md, common/scopes.py and config/schemata.
"""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from refimpl.models.recipes.keys import check_keys
from refimpl.models.recipes.kinds import Movement, QuantizeAware, Training

MOVEMENT, QUANTIZATION = "movement_sparsity", "quantization"
DISTILLATION = {"loss": "kl_batchmean", "temperature": 2, "weight": 0.9}
COMMANDS: dict[str, dict[str, Any]] = {
    "sst2": {"epochs": 5, "learning_rate": 2e-5, "batch": 32, "distil": DISTILLATION},
    "squad": {"epochs": 8, "learning_rate": 3e-5, "batch": 16, "distil": DISTILLATION},
}
"""Of Optimum's examples."""
NEEDED = {
    "warmup_start_epoch": "warmup_start_epoch",
    "warmup_end_epoch": "warmup_end_epoch",
    "importance_regularization_factor": "factor",
}
PARAMS = NEEDED | {
    "init_importance_threshold": "initial_threshold",
    "initial_importance_threshold": "initial_threshold",
    "final_importance_threshold": "final_threshold",
    "power": "power",
    "enable_structured_masking": "structured",
}
"""NNCF's key -> that of a stage. Of the two of the initial threshold its code has the first, its documentation the
second."""
STRUCTURES = {
    "BertAttention": {"mode": "block"},
    "BertIntermediate": {"mode": "per_dim", "axis": 0},
    "BertOutput": {"mode": "per_dim", "axis": 1},
}
MODULES = {
    "BertAttention": (
        "BertAttention[attention]/BertSelfAttention[self]/NNCFLinear[query]",
        "BertAttention[attention]/BertSelfAttention[self]/NNCFLinear[key]",
        "BertAttention[attention]/BertSelfAttention[self]/NNCFLinear[value]",
        "BertAttention[attention]/BertSelfOutput[output]/NNCFLinear[dense]",
    ),
    "BertIntermediate": ("BertIntermediate[intermediate]/NNCFLinear[dense]",),
    "BertOutput": ("BertOutput[output]/NNCFLinear[dense]",),
}
"""The linear layers of a BertLayer."""
REPEATS, MOST_REPEATS = re.compile(r"[*+]|\{(?!re\})"), 3
"""Of a regular expression: one with more of them can be made to take forever."""
LAYERS = 24
"""Scopes are tried on as many, BERT-large's."""
HEADS = {
    "sst2": (
        "BertForSequenceClassification",
        ("BertModel[bert]/BertPooler[pooler]/NNCFLinear[dense]", "NNCFLinear[classifier]"),
    ),
    "squad": ("BertForQuestionAnswering", ("NNCFLinear[qa_outputs]",)),
}
"""The model of a task, and its linear layers after the encoder."""
FOLLOWED = {
    "weights": {"mode": "symmetric", "bits": 8, "signed": True, "per_channel": True},
    "activations": {"mode": "symmetric", "bits": 8, "signed": True, "per_channel": False},
}
WITHOUT_EFFECT = ("preset", "initializer", "scope_overrides", "ignored_scopes", "quantize_outputs")
"""Of quantization: activations are symmetric, ranges observed as the stage's defaults say, attention is f32."""


def translate(values: Any, task: str) -> dict[str, Any]:
    """The JSON's value as what the TOML of a recipe has, still to be checked as such. Raises ValueError for what is not
    followed."""
    said = dict(values) if isinstance(values, dict) and "compression" in values else {"compression": values}
    algorithms = said.pop("compression")
    said.pop("input_info", None)  # shapes for NNCF to trace a model with
    check_keys(said, [field.name for field in fields(Training)])
    algorithms = algorithms if isinstance(algorithms, list) else [algorithms]
    if not all(isinstance(part, dict) for part in algorithms):
        raise ValueError("need a list of algorithms, each an object")
    names = [part.get("algorithm") for part in algorithms]
    if names not in ([MOVEMENT], [QUANTIZATION], [MOVEMENT, QUANTIZATION], [QUANTIZATION, MOVEMENT]):
        raise ValueError(f"the algorithms are {names!r:.80}; need {MOVEMENT} and {QUANTIZATION}, or one of them")
    if task not in COMMANDS:
        raise ValueError(f"the task is {task}; need {' or '.join(COMMANDS)} for an NNCF configuration")
    by_name = dict(zip(names, algorithms, strict=True))
    stage = {key: value for key, value in (COMMANDS[task] | said).items() if value is not None}
    if QUANTIZATION in by_name:
        stage |= {"do": QuantizeAware.do} | _quantization(by_name[QUANTIZATION])
    if MOVEMENT in by_name:
        stage |= {"do": Movement.do, "quantize": QUANTIZATION in by_name} | _movement(by_name[MOVEMENT], task)
    return {"about": "from an NNCF configuration", "stage": [stage]}


def _movement(values: Mapping[str, Any], task: str) -> dict[str, Any]:
    check_keys(values, ("algorithm", "params", "sparse_structure_by_scopes", "ignored_scopes"))
    params = values.get("params", {})
    if not isinstance(params, dict):
        raise ValueError(f"params is {params!r:.80}; need an object")
    if "steps_per_epoch" in params:
        raise ValueError("steps_per_epoch is given; leave it out: it follows from the data, batch and accumulate")
    check_keys(params, PARAMS)
    missing = [key for key in NEEDED if key not in params]
    if missing:
        raise ValueError(f"params lacks {', '.join(missing)}")
    made = {PARAMS[key]: value for key, value in params.items()}
    if len(made) < len(params):
        raise ValueError("init_importance_threshold and initial_importance_threshold are given; need one")
    model, heads = HEADS[task]
    layer = f"{model}/BertModel[bert]/BertEncoder[encoder]/ModuleList[layer]/BertLayer"
    encoder = {
        kind: {f"{layer}[{i}]/{module}/linear_0" for i in range(LAYERS) for module in modules}
        for kind, modules in MODULES.items()
    }
    _check_ignored(values.get("ignored_scopes", []), encoder, {f"{model}/{module}/linear_0" for module in heads})
    return made | {"block": _block(values.get("sparse_structure_by_scopes", []), encoder)}


def _check_ignored(scopes: Any, encoder: Mapping[str, set[str]], heads: set[str]) -> None:
    ignored = _matched("ignored_scopes", scopes, heads.union(*encoder.values()))
    if ignored - heads:
        raise ValueError(f"ignored_scopes has {min(ignored - heads)}; need none in the encoder, which is pruned whole")
    if heads - ignored:
        left = ", ".join(sorted(heads - ignored))
        warnings.warn(f"{left}: not in ignored_scopes, so that NNCF prunes there; here nothing does", stacklevel=2)


def _block(structures: Any, encoder: Mapping[str, set[str]]) -> Any:
    """That of attention, once it is clear that each kind of layers is pruned as it is here."""
    if not isinstance(structures, list) or not all(isinstance(part, dict) for part in structures):
        raise ValueError(f"sparse_structure_by_scopes is {structures!r:.80}; need a list of objects")
    found: dict[str, Any] = {}
    for part in structures:
        scopes = part.get("target_scopes")
        names = _matched("target_scopes", scopes, set().union(*encoder.values()))
        kind = next((kind for kind in encoder if names == encoder[kind]), None)
        if kind is None or kind in found:
            need = f"once each, and whole, {', '.join(STRUCTURES)}"
            raise ValueError(f"target_scopes is {scopes!r:.80}, {len(names)} of the linear layers; need {need}")
        told = {key: value for key, value in part.items() if key != "target_scopes"}
        found[kind] = told.pop("sparse_factors", None) if kind == "BertAttention" else None
        if told != STRUCTURES[kind]:
            raise ValueError(f"the structure of {kind} is {json.dumps(told):.80}; need {json.dumps(STRUCTURES[kind])}")
    missing = ", ".join(kind for kind in STRUCTURES if kind not in found)
    if missing:
        raise ValueError(
            f"sparse_structure_by_scopes lacks {missing}, where NNCF prunes single weights; need all three"
        )
    return found["BertAttention"]


def _matched(key: str, scopes: Any, names: set[str]) -> set[str]:
    """Those that the scopes say: a whole name, or {re} and a regular expression that is found in it."""
    found: set[str] = set()
    for text in scopes if isinstance(scopes, list) else [scopes]:
        if not isinstance(text, str):
            raise ValueError(f"{key} is {scopes!r:.80}; need a text or a list of them")
        if len(REPEATS.findall(text)) > MOST_REPEATS or re.search(r"\)[*+?{]", text):
            raise ValueError(
                f"{key} has {text!r:.80}; need at most {MOST_REPEATS} of * and +, none after ), and no {{}}"
            )
        try:
            search = re.compile(text.replace("{re}", "")).search if "{re}" in text else text.__eq__
        except re.error as error:
            raise ValueError(f"{key} has {text!r:.80}, no regular expression: {error}") from None
        found |= set(filter(search, names))
    return found


def _quantization(values: Mapping[str, Any]) -> dict[str, Any]:
    check_keys(values, ("algorithm", "overflow_fix", *FOLLOWED, *WITHOUT_EFFECT))
    for part, followed in FOLLOWED.items():
        settings = values.get(part, {})
        if not isinstance(settings, dict):
            raise ValueError(f"{part} is {settings!r:.80}; need an object")
        check_keys(settings, followed)
        for key, value in settings.items():
            if value != followed[key]:
                raise ValueError(f"{key} of {part} is {json.dumps(value):.80}; need {json.dumps(followed[key])}")
    without = [key for key in WITHOUT_EFFECT if key in values]
    if without:
        warnings.warn(
            f"{', '.join(without)} of {QUANTIZATION}: no effect; activations are symmetric, attention is in f32, and "
            "ranges are observed as by default: a TOML recipe can set observer and samples",
            stacklevel=2,
        )
    return {"overflow_fix": values.get("overflow_fix", "disable")}
