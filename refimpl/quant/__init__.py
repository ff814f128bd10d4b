"""Symmetric INT8 quantization: codes, calibration, fake quantization, the quantized linear layer and attention."""

from refimpl.quant.attention import Codes
from refimpl.quant.calibrate import absmax, percentile
from refimpl.quant.linear import (
    IntegerLinear,
    QuantizedLinear,
    QuantizedTable,
    compensation,
    integer_linear,
    quantized_linear,
    rescale,
)
from refimpl.quant.ops import QUANTIZED
from refimpl.quant.requantize import requantize
from refimpl.quant.symmetric import (
    ZERO_POINT,
    dequantize_activation,
    dequantize_weight,
    quantize_activation,
    quantize_weight,
    scale_of,
    signed,
)

__all__ = [
    "QUANTIZED",
    "ZERO_POINT",
    "Codes",
    "IntegerLinear",
    "QuantizedLinear",
    "QuantizedTable",
    "absmax",
    "compensation",
    "dequantize_activation",
    "dequantize_weight",
    "integer_linear",
    "percentile",
    "quantize_activation",
    "quantize_weight",
    "quantized_linear",
    "requantize",
    "rescale",
    "scale_of",
    "signed",
]
