"""The kinds of stages that a recipe may have, and what each must say.

Numbers are what the sources of ``refimpl.prune``, ``distil`` and ``quant`` say.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

from refimpl import check
from refimpl.quant.smooth import ALPHA

CHOICES = {
    "method": ("one-shot", "prune-ofa", "inc", "movement"),
    "criterion": ("magnitude", "gradient", "snip", "snip_momentum", "movement"),
    "schedule": ("zhu_gupta_cubic", "inc_exp", "inc_cos", "inc_linear", "inc_cube"),
    "ranking": ("layer", "global"),
    "loss": ("kl_batchmean", "kl_element_mean", "soft_cross_entropy", "mse_logits", "l2_distance"),
    "hidden_loss": ("mse", "l1", "kl", "cosine"),
    "hidden_layers": ("all", "last"),
    "overflow_fix": ("disable", "enable", "first_layer_only"),
    "observer": ("percentile", "min-max", "mean-min-max", "mse"),
    "initial": ("absmax", "nncf"),
    "gradient": ("nncf", "step"),
    "bias_correction": ("none", "fast", "full"),
    "tuning": ("nncf", "nncf-nmse", "inc"),
}
"""Key -> what it may be, in whatever stage it is."""
MOST_EPOCHS = 1000


def among(name: str, value: str) -> None:
    """Raise ValueError for what is none of the key's choices."""
    if value not in CHOICES[name]:
        raise ValueError(f"{name} is {value!r:.80}; need {', '.join(CHOICES[name])}")


def at_least(name: str, value: float, least: float) -> None:
    """Raise ValueError for a number that is less, infinite or none."""
    if not least <= value < float("inf"):
        raise ValueError(f"{name} is {value:g}; need at least {least:g}")


@dataclass(frozen=True)
class Distillation:
    """(1 - weight) loss of the task + weight loss + hidden hidden_loss of hidden states, of all layers or the last.

    temperature: of the losses that have one, all but mse_logits and l2_distance. See ``refimpl.distil.logits``,
    ``self_distillation.l2_distance``, ``mixing.ovtrainer`` and ``matching``.
    """

    loss: str = "kl_batchmean"
    temperature: float = 2.0
    weight: float = 0.9
    hidden: float = 0.0
    hidden_loss: str = "mse"
    hidden_layers: str = "all"

    def __post_init__(self) -> None:
        among("loss", self.loss)
        check.fraction("weight", self.weight)
        at_least("hidden", self.hidden, 0)
        among("hidden_loss", self.hidden_loss)
        among("hidden_layers", self.hidden_layers)
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature:g}; need more than 0")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What stages that train have in common. warmup: share of the updates."""

    do: ClassVar[str]
    epochs: int
    batch: int = 32
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    dropout: float = 0.1
    accumulate: int = 1
    distil: Distillation | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.epochs <= MOST_EPOCHS:
            raise ValueError(f"epochs is {self.epochs}; need 1 to {MOST_EPOCHS}")
        at_least("batch", self.batch, 1)
        at_least("accumulate", self.accumulate, 1)
        check.fraction("warmup", self.warmup)
        check.fraction("weight_decay", self.weight_decay)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout:g}; need 0 to below 1")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate is {self.learning_rate:g}; need more than 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class FineTune(Training):
    """lock: what is zero stays zero, as ``methods.locked`` says."""

    do: ClassVar[str] = "fine-tune"
    lock: bool = False


@dataclass(frozen=True, kw_only=True)
class Movement(Training):
    """NNCF's movement sparsity: epochs of its warm-up, the full regularization factor, the blocks of attention.

    Rows of ``intermediate`` and columns of ``output`` are pruned whole. structured: at the end of the warm-up the masks
    are resolved to whole heads and neurons, and dead ones are removed from what is written. score_rate: the learning
    rate of scores, in units of the others' (NNCF: 1). initial_threshold, final_threshold, power: see
    ``refimpl.prune.movement_schedule``; without initial_threshold it is the one that prunes 1 of 1000 weights.
    """

    do: ClassVar[str] = "movement"
    warmup_start_epoch: float
    warmup_end_epoch: float
    factor: float
    initial_threshold: float | None = None
    final_threshold: float = 0.0
    power: float = 3.0
    score_rate: float = 1.0
    block: tuple[int, int] = (32, 32)
    structured: bool = True
    quantize: bool = False
    overflow_fix: str = "disable"
    observer: str = "percentile"
    samples: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        start, end = self.warmup_start_epoch, self.warmup_end_epoch
        if not 0 < start < end <= self.epochs:
            need = f"0 < warmup_start_epoch < warmup_end_epoch <= epochs, {self.epochs}"
            raise ValueError(f"warmup_start_epoch and warmup_end_epoch are {start:g} and {end:g}; need {need}")
        at_least("factor", self.factor, 0)
        thresholds = [x for x in (self.initial_threshold, self.final_threshold) if x is not None]
        if not all(map(isfinite, thresholds)) or thresholds != sorted(set(thresholds)):
            told = f"{self.initial_threshold} and {self.final_threshold}"
            raise ValueError(f"initial_threshold and final_threshold are {told}; need finite ones, the second greater")
        if not 0 < self.power < float("inf"):
            raise ValueError(f"power is {self.power:g}; need more than 0")
        at_least("score_rate", self.score_rate, 0)
        check_block(self.block)
        _check_quantization(self)


@dataclass(frozen=True, kw_only=True)
class Hybrid(Training):
    """nn_pruning's hybrid: the threshold of sigmoid(score) rises from 0 to ``final_threshold``, as ``fine_pruning``.

    factor: of the regularization, at the end. initial_warmup, final_warmup: how many times ``warmup`` it rests at both
    ends. score_rate: the learning rate of scores, in units of the others' (nn_pruning: 1e-2 in all). filled: hybrid
    filled, just after another hybrid stage: once more from what that began with, with the heads that it kept whole.
    """

    do: ClassVar[str] = "hybrid"
    factor: float
    final_threshold: float = 0.1
    initial_warmup: float = 1.0
    final_warmup: float = 2.0
    score_rate: float = 200.0
    block: tuple[int, int] = (32, 32)
    filled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("factor", self.factor, 0)
        if not 0 < self.final_threshold < 1:
            raise ValueError(f"final_threshold is {self.final_threshold:g}; need more than 0 and less than 1")
        at_least("initial_warmup", self.initial_warmup, 0)
        at_least("final_warmup", self.final_warmup, 0)
        rests = self.warmup * (self.initial_warmup + self.final_warmup)
        if not rests < 1:
            raise ValueError(f"warmup times initial_warmup + final_warmup is {rests:g}; need less than 1")
        at_least("score_rate", self.score_rate, 0)
        check_block(self.block)


@dataclass(frozen=True, kw_only=True)
class QuantizeAware(Training):
    """Ranges begin as observed and are learned. initial: of a weight's rows, absmax, or nncf, which is at least 0.1;
    gradient: of the ranges, nncf, or step, LSQ's without its scaling; see ``refimpl.quant.fake``. lock: as of
    ``FineTune``."""

    do: ClassVar[str] = "quantize-aware"
    overflow_fix: str = "disable"
    observer: str = "percentile"
    samples: int = 300
    initial: str = "absmax"
    gradient: str = "nncf"
    lock: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_quantization(self)
        among("initial", self.initial)
        among("gradient", self.gradient)


@dataclass(frozen=True, kw_only=True)
class Student:
    """layers: numbers of the layers that it begins with, in their order."""

    do: ClassVar[str] = "student"
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers is {list(self.layers)}; need rising numbers from 0, at least one")


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """smooth: SmoothQuant before calibration, of ``attention_output`` alone, whose scales v takes; alpha: 0 to 1,
    0 leaves all to the weight; attention: in INT8 too; bias_correction: none, fast or full; max_drop: layers are kept
    in f32 until the task's first metric is at most so much below that of the f32 model; tuning: which, see ``tuned``;
    nncf (also where it is left out) and nncf-nmse have max_drop in points, inc in percent of the f32 model's metric."""

    do: ClassVar[str] = "quantize"
    observer: str = "percentile"
    samples: int = 300
    overflow_fix: str = "disable"
    smooth: bool = False
    alpha: float = ALPHA
    attention: bool = False
    bias_correction: str = "none"
    max_drop: float | None = None
    tuning: str | None = None

    def __post_init__(self) -> None:
        _check_quantization(self)
        check.fraction("alpha", self.alpha)
        among("bias_correction", self.bias_correction)
        if self.tuning is not None:
            among("tuning", self.tuning)
            if self.max_drop is None:
                raise ValueError(f"tuning is {self.tuning!r} without max_drop; need both")
        if self.max_drop is not None:
            at_least("max_drop", self.max_drop, 0)


def check_block(block: tuple[int, ...]) -> None:
    """Raise ValueError for what is not two sizes."""
    if len(block) != 2 or min(block) < 1:
        raise ValueError(f"block is {list(block)}; need rows and columns, each 1 or more")


def _check_quantization(stage: Any) -> None:
    among("observer", stage.observer)
    among("overflow_fix", stage.overflow_fix)
    at_least("samples", stage.samples, 1)
