"""The shape of a model, as read from a Hugging Face ``config.json``.

| here | letter | BERT's config | DistilBERT's config |
|---|---|---|---|
| vocabulary | V | vocab_size | vocab_size |
| hidden | D | hidden_size | dim |
| heads | H | num_attention_heads | n_heads |
| layers | L | num_hidden_layers | n_layers |
| feed_forward | F | intermediate_size | hidden_dim |
| positions | P | max_position_embeddings | max_position_embeddings |
| token_types | S | type_vocab_size | (0) |
| eps | | layer_norm_eps | (1e-12) |
"""

from dataclasses import dataclass

HEADS = ("classification", "question_answering", "masked_lm", "sentence_embedding")


@dataclass(frozen=True)
class Config:
    """Sizes, names of the classes (empty but for classification) and which of ``HEADS`` is on top."""

    model_type: str
    head: str
    vocabulary: int
    hidden: int
    heads: int
    layers: int
    feed_forward: int
    positions: int
    token_types: int
    eps: float
    labels: tuple[str, ...] = ()
