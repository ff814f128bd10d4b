"""What stands on top of the encoder: five heads, each a record of parameters with one method of wiring.

A head is called as ``head(x, mask, ops, tap)`` with x (B, T, D) and mask (B, T); its result is tapped as "output".
"""

from typing import Any, NamedTuple

from refimpl.nn import Linear, Norm, Ops, Tap, pooler


class BertClassification(NamedTuple):
    """Logits (B, C) from BERT's pooler. pooler: (D, D); classifier: (C, D)."""

    pooler: Linear
    classifier: Linear

    def __call__(self, x: Any, mask: Any, ops: Ops, tap: Tap) -> Any:
        return ops.linear(pooler(x, self.pooler, ops, tap), self.classifier, tap.scope("classifier"))


class DistilBertClassification(NamedTuple):
    """Logits (B, C) from the first token, a linear layer and ReLU. pre_classifier: (D, D); classifier: (C, D)."""

    pre_classifier: Linear
    classifier: Linear

    def __call__(self, x: Any, mask: Any, ops: Ops, tap: Tap) -> Any:
        hidden = ops.linear(ops.first_token(x), self.pre_classifier, tap.scope("pre_classifier"))
        active = tap("relu", ops.relu(tap("pre_classifier", hidden)))
        return ops.linear(active, self.classifier, tap.scope("classifier"))


class QuestionAnswering(NamedTuple):
    """Start and end logits (B, T, 2). outputs: (2, D)."""

    outputs: Linear

    def __call__(self, x: Any, mask: Any, ops: Ops, tap: Tap) -> Any:
        return ops.linear(x, self.outputs, tap.scope("qa_outputs"))


class MaskedLanguageModel(NamedTuple):
    """Vocabulary logits (B, T, V). transform: (D, D); decoder: (V, D), in most checkpoints the word table itself."""

    transform: Linear
    norm: Norm
    decoder: Linear

    def __call__(self, x: Any, mask: Any, ops: Ops, tap: Tap) -> Any:
        hidden = tap("transform", ops.linear(x, self.transform, tap.scope("transform")))
        active = tap("transform_gelu", ops.gelu(hidden))
        return ops.linear(tap("transform_norm", ops.layernorm(active, self.norm)), self.decoder, tap.scope("decoder"))


class SentenceEmbedding(NamedTuple):
    """Unit vectors (B, D): the mean over tokens, normalized. No parameters."""

    def __call__(self, x: Any, mask: Any, ops: Ops, tap: Tap) -> Any:
        return ops.l2_normalize(tap("mean_pool", ops.mean_pool(x, mask)))


Head = BertClassification | DistilBertClassification | QuestionAnswering | MaskedLanguageModel | SentenceEmbedding
