"""Masked and fake-quantized linear layers on the tape, by kernels.

    tape = Tape(*training(threads), linears(threads))

The bits depend on no number of threads, as ``table`` says.
"""

from functools import partial

from refimpl.kernels.training.fake_quantize import fake_quantize, fake_quantize_backward
from refimpl.kernels.training.table import Rows, training
from refimpl.nn.tape import LinearKind
from refimpl.prune.masked_linear import MaskedLinear, masked_kind
from refimpl.quant.fake import Width, width_nncf
from refimpl.quant.fake_linear import FakeQuantizedLinear, fake_quantized_kind


def linears(threads: int, width: Width = width_nncf) -> dict[type, LinearKind]:
    """For a ``Tape`` beside ``training(threads)``, f32. width: ``width_nncf`` or ``width_of_step``, the gradient of the
    ranges under fake quantization."""
    forwards, backwards = training(threads)
    products, run = (forwards.linear, backwards.linear), Rows(threads).run
    fake = fake_quantized_kind(*products, partial(fake_quantize, run), partial(fake_quantize_backward, run, width))
    return {MaskedLinear: masked_kind(*products), FakeQuantizedLinear: fake}
