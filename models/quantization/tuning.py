"""What the searches of ``refimpl.quant.tuning`` need to be told about a model: its metric with some layers in f32."""

from collections.abc import Callable, Sequence

from refimpl.models.bert import Batch, Model, forward
from refimpl.models.compress import Calibrated, Quantized
from refimpl.models.precision import keep
from refimpl.quant.ops import QUANTIZED
from refimpl.quant.tuning import Evaluate, nmse


def metric_of(quantized: Quantized, calibrated: Calibrated, metric: Callable[[Model], float]) -> Evaluate:
    """metric: of a model that the reference runs; larger is better."""
    return lambda kept: metric(keep(quantized, calibrated, kept).model)


def negative_nmse(quantized: Quantized, calibrated: Calibrated, batches: Sequence[Batch]) -> Evaluate:
    """Minus the mean over batches of the outputs' normalized squared error, the f32 model being the reference."""
    references = [forward(calibrated.model, batch) for batch in batches]

    def score(model: Model) -> float:
        errors = [nmse(y, forward(model, batch, QUANTIZED)) for y, batch in zip(references, batches, strict=True)]
        return -sum(errors) / len(errors)

    return metric_of(quantized, calibrated, score)
