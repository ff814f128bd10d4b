"""A head for another task on a trained encoder.

The encoder and, where the file has one, BERT's pooler are kept; a head of the wanted kind with as many classes is
kept whole. What is new is drawn: weights N(0, 0.02²), f32; biases 0, norms 1 and 0. A masked language model's decoder
is the word table. Source: BERT, arXiv 1810.04805, section 3.2, and its initializer_range.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from refimpl.models.bert import Model
from refimpl.models.checkpoint import load_model, load_pooler
from refimpl.models.config import Config
from refimpl.models.heads import (
    BertClassification,
    DistilBertClassification,
    Head,
    MaskedLanguageModel,
    QuestionAnswering,
)
from refimpl.nn import Linear, Norm

DEVIATION = 0.02


def load_for(directory: Path, head: str, labels: tuple[str, ...], generator: np.random.Generator) -> Model:
    """The model in a Hugging Face directory, with a head for classification, question_answering or masked_lm.

    Raises as ``load_model``.
    """
    model = load_model(directory)
    config = replace(model.config, head=head, labels=labels)
    if model.config.head == head and len(model.config.labels) == len(labels):
        return replace(model, config=config)
    pooler = load_pooler(directory) if head == "classification" else None
    return replace(model, config=config, head=new_head(config, model.embeddings.word, pooler, generator))


def new_head(config: Config, word: np.ndarray, pooler: Linear | None, generator: np.random.Generator) -> Head:
    """The head that the configuration names. word: f32 (V, D); pooler: BERT's, a new one if None."""
    hidden = config.hidden

    def linear(outputs: int) -> Linear:
        weight = generator.normal(0, DEVIATION, (outputs, hidden)).astype(np.float32)
        return Linear(weight, np.zeros(outputs, np.float32))

    if config.head == "question_answering":
        return QuestionAnswering(linear(2))
    if config.head == "masked_lm":
        norm = Norm(np.ones(hidden, np.float32), np.zeros(hidden, np.float32), config.eps)
        return MaskedLanguageModel(linear(hidden), norm, Linear(word, np.zeros(config.vocabulary, np.float32)))
    if config.head != "classification":
        raise ValueError(f"head is {config.head!r}; need classification, question_answering or masked_lm")
    if config.model_type == "distilbert":
        return DistilBertClassification(linear(hidden), linear(len(config.labels)))
    return BertClassification(pooler or linear(hidden), linear(len(config.labels)))
