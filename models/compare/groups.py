"""Which part of a model a node belongs to, for who reads hundreds of them: embeddings, layer 0, layer 1, ..., head.

Names decide where they say it: ``layer.3.q``, ``/bert/encoder/layer.3/output/Add``, ``h.3.``, ``embeddings``. A node
without one belongs with the next that has one; what comes after the last layer is the head. Where no name says a layer,
norms are counted, of which BERT has one after its embeddings and two in a layer.
"""

import re

from refimpl.models.oracle.graph import Node

EMBEDDINGS, HEAD = "embeddings", "head"
LAYER = re.compile(r"(?:^|[/._])(?:layers?|h|block)[/._](\d+)(?:[/._]|$)")
NORMS = ("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization", "QEmbedLayerNormalization")


def groups(nodes: tuple[Node, ...]) -> list[str]:
    """Of each node, in order of computation.

    >>> names = ["Gather_1", "embeddings", "MatMul_2", "layer.0.q", "layer.0.output", "logits"]
    >>> groups(tuple(Node(name, "Add", "", (), (name,), {}) for name in names))
    ['embeddings', 'embeddings', 'layer 0', 'layer 0', 'layer 0', 'head']
    """
    named = [_named(node) for node in nodes]
    if not any(name.startswith("layer") for name in named):
        return _by_norms(nodes)
    found, following = [], HEAD
    for name in reversed(named):
        following = name or following
        found.append(following)
    return found[::-1]


def _named(node: Node) -> str:
    for text in (node.name, *node.outputs):
        layer = LAYER.search(text)
        if layer:
            return f"layer {int(layer[1])}"
    return EMBEDDINGS if any("embedding" in text.lower() for text in (node.name, *node.outputs)) else ""


def _by_norms(nodes: tuple[Node, ...]) -> list[str]:
    total = sum(node.op in NORMS for node in nodes)
    layers, seen, found = max(total - 1, 0) // 2, 0, []
    for node in nodes:
        layer = (seen - 1) // 2
        found.append(EMBEDDINGS if not seen else f"layer {layer}" if layer < layers else HEAD)
        seen += node.op in NORMS
    return found
