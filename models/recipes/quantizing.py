"""The parts of a recipe that quantize: calibration on training rows, after training and before training under it."""

from collections.abc import Sequence

from refimpl.models.bert import Batch, linears
from refimpl.models.compress import Calibrated, Dense, Masked, calibrate, quantize, quantize_with_attention
from refimpl.models.quantization.biases import correct_biases, correct_biases_in_order
from refimpl.models.quantization.learned import Initial, prepare
from refimpl.models.quantization.smoothing import smooth_foldable
from refimpl.models.recipes import tuned
from refimpl.models.recipes.kinds import Movement, Quantize, QuantizeAware
from refimpl.models.recipes.setting import Done, Setting, Work
from refimpl.models.training.batches import Purpose, stream
from refimpl.models.training.task import Task
from refimpl.quant import fake_linear, quantize_weight
from refimpl.quant.fake import initial_high, initial_high_nncf, width_nncf, width_of_step
from refimpl.quant.observers import MEAN_MIN_MAX, MIN_MAX, MSE_OPTIMAL, percentiles
from refimpl.saturation.reduced_range import nncf_ptq_enable

PERCENTILE = 99.99
"""Of NNCF's configurations for BERT."""
OBSERVERS = {"min-max": MIN_MAX, "mean-min-max": MEAN_MIN_MAX, "mse": MSE_OPTIMAL}
LEVELS = {
    "disable": fake_linear.overflow_fix_disable,
    "enable": fake_linear.overflow_fix_enable,
    "first_layer_only": fake_linear.overflow_fix_first_layer_only,
}
INITIAL = {"absmax": initial_high, "nncf": initial_high_nncf}
WIDTH = {"nncf": width_nncf, "step": width_of_step}
CORRECT = {"fast": correct_biases, "full": correct_biases_in_order}


def post_training(setting: Setting, stage: Quantize, work: Work) -> Done:
    """Smooth, calibrate, quantize, correct biases, and keep layers in f32 where that is asked for."""
    setting.bar.begin(0, 0, stage.do)
    batches = samples(setting.task, stage.samples, setting.seed)
    masked = _masked(work.dense)
    if stage.smooth:
        masked = smooth_foldable(masked, batches, stage.alpha)
    calibrated = _calibrated(stage, masked, batches, stage.attention)
    of_weight = nncf_ptq_enable if stage.overflow_fix == "enable" else quantize_weight
    quantized = (quantize_with_attention if stage.attention else quantize)(calibrated, of_weight)
    if stage.bias_correction != "none":
        quantized = CORRECT[stage.bias_correction](quantized, calibrated, batches)
    if stage.max_drop is None:
        return Done(work._replace(quantized=quantized))
    found = tuned.restored(quantized, calibrated, setting.measure, stage, batches, setting.bar.tuning)
    return Done(work._replace(quantized=found.quantized), notes=(found.note,), tuning=found.trials)


def prepared(
    setting: Setting, stage: Movement | QuantizeAware, dense: Dense, initial: Initial = initial_high
) -> Calibrated:
    """Under fake quantization, with observed ranges of the inputs and ``initial`` ones of the weights."""
    calibrated = _calibrated(stage, _masked(dense), samples(setting.task, stage.samples, setting.seed))
    return prepare(calibrated, initial, LEVELS[stage.overflow_fix](linears(dense.model)))


def samples(task: Task, count: int, seed: int) -> list[Batch]:
    """So many training rows, drawn without return, one a batch."""
    generator = stream(seed, Purpose.CALIBRATION)
    rows = generator.permutation(len(task.lengths))[:count].tolist()
    return [task.example([row], generator)[0] for row in rows]


def _masked(dense: Dense) -> Masked:
    return Masked(dense.model, dense.tokenizer, {name: p.weight != 0 for name, p in linears(dense.model).items()})


def _calibrated(
    stage: Movement | Quantize | QuantizeAware, masked: Masked, batches: Sequence[Batch], attention: bool = False
) -> Calibrated:
    widest = max(max(p.weight.shape) for p in linears(masked.model).values())
    observer = OBSERVERS.get(stage.observer) or percentiles(PERCENTILE, widest * sum(b.ids.size for b in batches))
    return calibrate(masked, batches, observer, attention)
