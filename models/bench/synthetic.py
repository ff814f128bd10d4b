"""A model made of random numbers, with the shape of DistilBERT: what an engine is timed on where no model is at hand.

An engine's time depends on the shape and on which weights are zero, not on what the others are; so that its results can
be judged too, the numbers have the sizes of a trained model's: weights of 0.04, normalized activations, and in a few
channels outliers as in BERT: the first normalization makes them 10 to 20 times as large as the rest, and the others
keep them there, so that they widen the scales of activations. Ranges are observed on random ids. What the model says
means nothing.
Source: the shape, DistilBERT, arXiv 1910.01108, section 3; outliers, BERT Busters, arXiv 2105.06990.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from refimpl import check
from refimpl.models import compress
from refimpl.models import config as configs
from refimpl.models.bert import Batch, Model
from refimpl.models.compress import Calibrated, Dense, Quantized
from refimpl.models.config import Config
from refimpl.models.heads import QuestionAnswering
from refimpl.models.tokenizer import SPECIAL, VOCABULARY, Tokenizer, wordpiece
from refimpl.nn import Embeddings, EncoderLayer, Linear, Norm

NAME = "synthetic DistilBERT"
POSITIONS = 512
WEIGHT, BIAS, POSITION = 0.04, 0.1, 0.02
"""Standard deviations; words are as large as weights."""
OUTLIERS_IN = 128
"""One channel in so many is an outlier, at least one: 6 of 768."""
OUTLIER, KEPT = (10.0, 20.0), (1.0, 1.5)
"""Range of the factors of an outlier in the weight of the first normalization, and of the others."""
LONGEST_CALIBRATION = 128
WORDS = [*SPECIAL, "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
"""All that the tokenizer knows; any other word is [UNK]."""


def synthetic(
    density: float,
    quantizer: Callable[[Calibrated], Quantized] = compress.quantize,
    seed: int = 0,
    layers: int = 6,
    hidden: int = 768,
    heads: int = 12,
    feed_forward: int = 3072,
    vocabulary: int = 30522,
    positions: int = POSITIONS,
) -> Quantized:
    """A question-answering model of random weights, pruned in 4x1 blocks to ``density``, calibrated and quantized
    by ``quantizer``, one of ``compress``.

    Raises
    ------
    ValueError
        density is outside 0 ... 1, or a size is one that no model may have
    """
    check.fraction("density", density)
    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "feed_forward": feed_forward}
    values = {"model_type": "distilbert", "head": "question_answering", "labels": [], **configs.FIXED["distilbert"]}
    config = configs.from_json(values | sizes | {"vocabulary": vocabulary, "positions": positions}, NAME)
    if vocabulary < len(WORDS):
        raise ValueError(f"vocabulary is {vocabulary}; need at least {len(WORDS)}")
    rng = np.random.default_rng(seed)
    masked = compress.prune(Dense(_model(rng, config), _tokenizer(config)), density)
    return quantizer(compress.calibrate(masked, [random_batch(rng, config, 1, LONGEST_CALIBRATION)]))


def random_batch(rng: np.random.Generator, config: Config, texts: int, tokens: int) -> Batch:
    """Random ids without padding; no more tokens than the model has positions."""
    ids = rng.integers(0, config.vocabulary, (texts, min(tokens, config.positions)))
    return Batch(ids, np.ones_like(ids), np.zeros_like(ids))


def random_texts(rng: np.random.Generator, config: Config, lengths: Sequence[int]) -> Batch:
    """Texts of several lengths, of at most as many tokens as the model has positions, padded to the longest."""
    whole = random_batch(rng, config, len(lengths), max(lengths))
    mask = (np.arange(whole.ids.shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    return Batch(whole.ids * mask, mask, whole.types)


def _model(rng: np.random.Generator, config: Config) -> Model:
    d, f = config.hidden, config.feed_forward
    outliers = rng.choice(d, max(1, d // OUTLIERS_IN), replace=False)

    def norm(factors: tuple[float, float] = KEPT) -> Norm:
        weight = _normal(rng, 0.1, d) + np.float32(0.9)
        weight[outliers] *= rng.uniform(*factors, outliers.size)
        return Norm(weight, _normal(rng, BIAS, d), config.eps)

    def linear(outputs: int, inputs: int) -> Linear:
        return Linear(_normal(rng, WEIGHT, outputs, inputs), _normal(rng, BIAS, outputs))

    word, position = _normal(rng, WEIGHT, config.vocabulary, d), _normal(rng, POSITION, config.positions, d)
    embeddings = Embeddings(word, position, None, norm(OUTLIER))
    layers = tuple(
        EncoderLayer(
            q=linear(d, d), k=linear(d, d), v=linear(d, d), attention_output=linear(d, d), attention_norm=norm(),
            intermediate=linear(f, d), output=linear(d, f), output_norm=norm(),
        )
        for _ in range(config.layers)
    )  # fmt: skip
    return Model(config, embeddings, layers, QuestionAnswering(linear(2, d)))


def _normal(rng: np.random.Generator, deviation: float, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32) * np.float32(deviation)


def _tokenizer(config: Config) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / VOCABULARY).write_text("\n".join(WORDS) + "\n", "utf-8")
        return Tokenizer(wordpiece(Path(folder)), config, NAME)
