"""The sizes that layers of a pruned model have one by one: heads, and feed-forward neurons.

Hugging Face's ``config.json`` names the heads that are gone, ``"pruned_heads": {"0": [1, 3], ...}``, and cannot name
neurons; ``"layer_feed_forward": [96, 64, ...]`` is our own key. Values are untrusted.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

PER_LAYER = ("layer_heads", "layer_feed_forward")
"""The fields of ``Config``; empty, and not in a packed file, where all layers have all."""


def parse(values: Mapping[str, Any], layers: Any, heads: Any, where: str) -> dict[str, tuple[Any, ...]]:
    """Both fields, from config.json with so many layers and heads (not checked yet). Raises ValueError."""
    neurons = as_tuple("layer_feed_forward", values.get("layer_feed_forward") or [], where)
    gone = values.get("pruned_heads") or {}
    if not isinstance(gone, dict):
        raise ValueError(f"{where}: pruned_heads is {reprlib.repr(gone)}; need an object of lists by layer")
    if not gone or type(layers) is not int or type(heads) is not int:
        return {"layer_heads": (), "layer_feed_forward": neurons}
    left = dict.fromkeys(range(min(layers, 2**10)), heads)
    for layer, numbers in gone.items():
        known = isinstance(numbers, list) and all(type(head) is int and 0 <= head < heads for head in numbers)
        if not layer.isdecimal() or int(layer[:9]) not in left or not known:
            shown = f"pruned_heads of layer {reprlib.repr(layer)} is {reprlib.repr(numbers)}"
            raise ValueError(f"{where}: {shown}; need the numbers of heads, of one of the layers")
        left[int(layer)] = heads - len(set(numbers))
    return {"layer_heads": tuple(left.values()), "layer_feed_forward": neurons}


def to_hugging_face(layer_heads: Sequence[int], layer_feed_forward: Sequence[int], heads: int) -> dict[str, Any]:
    """The keys of config.json that ``parse`` reads back. A count does not say which heads are gone: the last are named,
    and a reader whose layers are as wide as they are stored computes the same whichever they are."""
    gone = {str(i): list(range(left, heads)) for i, left in enumerate(layer_heads) if left < heads}
    sizes = {"pruned_heads": gone, "layer_feed_forward": list(layer_feed_forward)}
    return {key: value for key, value in sizes.items() if value}


def as_tuple(name: str, value: Any, where: str) -> tuple[Any, ...]:
    """A JSON list as a tuple. Raises ValueError for anything else."""
    if not isinstance(value, list):
        raise ValueError(f"{where}: {name} is {reprlib.repr(value)}; need a list")
    return tuple(value)


def check(name: str, sizes: tuple[Any, ...], layers: int, most: int, where: str) -> None:
    """Raise ValueError unless there is none or one a layer, each an integer from 1 to ``most``."""
    if len(sizes) not in (0, layers):
        raise ValueError(f"{where}: {name} has {len(sizes)} numbers; need {layers}, one a layer")
    for size in sizes:
        if type(size) is not int or not 1 <= size <= most:
            raise ValueError(f"{where}: {name} has {reprlib.repr(size)}; need integers from 1 to {most}")
