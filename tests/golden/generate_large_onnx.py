"""Writes ONNX models of full size, as other tools make them, for tests/test_7_oracle_large.py. None is kept here.

    python tests/golden/generate_large_onnx.py FOLDER                      all of them, some gigabytes
    python tests/golden/generate_large_onnx.py FOLDER minilm.script-sdpa.dynamic-s8 ...

A name is ENCODER.EXPORT.TREATMENT.

    minilm       all-MiniLM-L6-v2, real weights: 6 layers, hidden size 384
    bert         BERT-base's sizes but 2 layers; random weights, some channels of large magnitude, as trained BERTs have
    bert12       the same with all 12
    distilbert   DistilBERT's sizes with all 6 layers, otherwise the same

    script-...   torch.onnx's TorchScript exporter, opset 17; dynamo-...: torch.export's, opset 20 (needs onnxscript)
    ...-eager    attention written out; ...-sdpa: scaled_dot_product_attention. -fixed: sizes fixed to 2 x 16
    ours         refimpl.models.export, of MiniLM

    f32          as it was exported
    qdq-AW, operators-AW
                 onnxruntime.quantization.quantize_static with types A of activations and W of weights; -channel: a
                 scale per output channel; -reduced: reduce_range; -products: of products only. Calibrated without
                 padding: with it, the mask's -3.4e38 makes a range in which all scores have one code
    dynamic-W    onnxruntime.quantization.quantize_dynamic, likewise
                 -large: all s8 weights times 4 after that, up to 127: of no use, but many pairs of products saturate
    fused        onnxruntime.transformers.optimizer: Attention, SkipLayerNormalization, EmbedLayerNormalization,
                 BiasGelu; fused-heads: MultiHeadAttention; fused-...: quantized after that
    nncf         nncf.quantize, model_type TRANSFORMER (needs nncf); nncf-overflow: with OverflowFix.ENABLE
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from refimpl.models import compress
from refimpl.models.embedded import embedded_model
from refimpl.models.export import export_onnx

OUTLIERS, FACTOR = 6, 20
TYPES = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
INPUTS = ("input_ids", "attention_mask")
SHAPE = (2, 16)
SAMPLES = 8
LARGE = 4


class Positional(torch.nn.Module):
    """The exporter passes inputs by position, the model takes them by name."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]


def random_weights(model):
    """Fresh weights are so small that nothing would vary, and no channel stands out as in trained models."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (0.05 if p.ndim > 1 else 0.1))
            if name.lower().endswith("norm.weight"):
                p.add_(1)
                p[torch.randperm(len(p))[:OUTLIERS]] *= FACTOR
    return model


def encoder(name, attention):
    torch.manual_seed(0)
    if name == "minilm":
        return BertModel.from_pretrained(embedded_model(), attn_implementation=attention)
    if name == "distilbert":
        return random_weights(DistilBertModel(DistilBertConfig(attn_implementation=attention)))
    config = BertConfig(num_hidden_layers={"bert": 2, "bert12": 12}[name], attn_implementation=attention)
    return random_weights(BertModel(config))


def heads_and_size(name):
    return (12, 384) if name == "minilm" else (12, 768)


def texts():
    return (Path(compress.__file__).parent / "sentences.txt").read_text("utf-8").splitlines()


def batches(name):
    """Token ids and masks to calibrate with: of single sentences, or random."""
    if name == "minilm":
        made = compress.encode_each(compress.load(embedded_model()).tokenizer, texts()[:SAMPLES])
        return [dict(zip(INPUTS, batch, strict=False)) for batch in made]
    random = np.random.default_rng(0)
    return [{INPUTS[0]: random.integers(1, 30522, SHAPE), INPUTS[1]: np.ones(SHAPE, np.int64)} for _ in range(SAMPLES)]


class Samples(CalibrationDataReader):
    def __init__(self, name):
        self.rows = iter(batches(name))

    def get_next(self):
        return next(self.rows, None)


# --- exports ---------------------------------------------------------------------------------------------------------


def export(name, how, path):
    exporter, attention, *fixed = how.split("-")
    model = Positional(encoder(name, attention)).eval()  # eval() of the inner model alone: dynamo exports dropouts
    ids = torch.randint(0, 30522, SHAPE, generator=torch.Generator().manual_seed(0))
    options = {"input_names": list(INPUTS), "output_names": ["output"], "verbose": False}
    if exporter == "dynamo":
        options |= {"dynamo": True, "external_data": False}
        sizes = dict.fromkeys(range(2), torch.export.Dim.DYNAMIC)
        options |= {} if fixed else {"dynamic_shapes": dict.fromkeys(INPUTS, sizes)}
    else:
        options |= {"dynamo": False, "opset_version": 17}
        options |= {} if fixed else {"dynamic_axes": {key: {0: "batch", 1: "tokens"} for key in INPUTS}}
    torch.onnx.export(model, (ids, torch.ones_like(ids)), str(path), **options)


def export_ours(treatment, path):
    dense = compress.load(embedded_model())
    if treatment == "f32":
        return export_onnx(dense.model, path)
    calibrated = compress.calibrate(
        compress.prune(dense, 1.0), compress.encode_each(dense.tokenizer, texts()[:SAMPLES])
    )
    quantize = {"int8": compress.quantize, "int8-attention": compress.quantize_with_attention}[treatment]
    return export_onnx(quantize(calibrated).model, path)


# --- treatments ------------------------------------------------------------------------------------------------------


def fuse(name, source, path, by_heads):
    options = FusionOptions("bert")
    options.use_multi_head_attention = by_heads
    heads, size = heads_and_size(name)
    made = optimizer.optimize_model(
        str(source), "bert", num_heads=heads, hidden_size=size, opt_level=0, optimization_options=options
    )
    made.save_model_to_file(str(path))


def enlarge(path):
    made = onnx.load(path)
    for tensor in made.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2:
            codes = numpy_helper.to_array(tensor).astype(np.int64) * LARGE
            tensor.CopyFrom(numpy_helper.from_array(codes.clip(-127, 127).astype(np.int8), tensor.name))
    onnx.save(made, path)


def quantize(name, source, path, words):
    """words: of a treatment, such as qdq, u8s8, channel."""
    kind, types, *rest = words
    how = {"per_channel": "channel" in rest, "reduce_range": "reduced" in rest}
    guess = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    if kind == "dynamic":
        return quantize_dynamic(source, path, weight_type=TYPES[types], extra_options=guess, **how)
    how["quant_format"] = {"qdq": QuantFormat.QDQ, "operators": QuantFormat.QOperator}[kind]
    how["activation_type"], how["weight_type"] = TYPES[types[:2]], TYPES[types[2:]]
    how["op_types_to_quantize"] = ["MatMul", "Gemm"] if "products" in rest else None
    return quantize_static(source, path, Samples(name), extra_options=guess, **how)


def by_nncf(name, source, path, overflow):
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    fix = OverflowFix.ENABLE if overflow else OverflowFix.DISABLE
    made = nncf.quantize(
        onnx.load(source), nncf.Dataset(batches(name)), model_type=nncf.ModelType.TRANSFORMER,
        subset_size=SAMPLES, advanced_parameters=AdvancedQuantizationParameters(overflow_fix=fix),
    )  # fmt: skip
    onnx.save(made, path)


def treat(name, treatment, source, path):
    words = treatment.split("-")
    if words[0] == "nncf":
        return by_nncf(name, source, path, "overflow" in words)
    if words[-1] == "large":
        treat(name, treatment.removesuffix("-large"), source, path)
        return enlarge(path)
    if words[0] != "fused":
        return quantize(name, source, path, words)
    by_heads = words[1:2] == ["heads"]
    rest = words[1 + by_heads :]
    if not rest:
        return fuse(name, source, path, by_heads)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fused = Path(folder, "fused.onnx")
        fuse(name, source, fused, by_heads)
        return quantize(name, fused, path, rest)


EXPORTS = [f"{exporter}-{attention}{fixed}" for exporter in ("script", "dynamo") for attention in ("eager", "sdpa")
           for fixed in ("", "-fixed")]  # fmt: skip
STATIC = ["qdq-u8s8", "qdq-u8s8-channel", "qdq-u8s8-channel-reduced", "qdq-u8u8", "qdq-s8s8-channel",
          "operators-u8s8", "operators-u8s8-channel", "operators-u8s8-reduced", "operators-u8u8", "operators-s8s8",
          "qdq-u8s8-channel-products", "qdq-u8s8-channel-products-large", "operators-u8s8-products",
          "qdq-s8s8-channel-products"]  # fmt: skip
DYNAMIC = ["dynamic-s8", "dynamic-s8-channel", "dynamic-s8-channel-large", "dynamic-s8-reduced", "dynamic-u8"]
FUSED = ["fused", "fused-heads", "fused-dynamic-s8", "fused-dynamic-u8", "fused-operators-u8s8", "fused-qdq-u8s8"]
NNCF = ["nncf", "nncf-overflow"]
SOME = ["f32", "qdq-u8s8-channel", "operators-u8s8", "dynamic-s8-channel", "fused", "fused-dynamic-s8", "nncf"]
NAMES = [
    *(f"minilm.{export}.f32" for export in EXPORTS),
    *(f"minilm.script-eager.{treatment}" for treatment in STATIC + DYNAMIC + FUSED + NNCF),
    *(f"minilm.dynamo-sdpa.{treatment}" for treatment in SOME[1:]),
    *(f"{name}.script-sdpa.{treatment}" for name in ("bert", "distilbert") for treatment in SOME),
    *(f"bert12.script-eager.{treatment}" for treatment in ("f32", "qdq-u8s8-channel")),
    *(f"minilm.ours.{treatment}" for treatment in ("f32", "int8", "int8-attention")),
]  # fmt: skip


def make(model, folder):
    """Write one model, and its export too where that is not there yet. Returns its path."""
    name, how, treatment = model.split(".")
    path = Path(folder, f"{model}.onnx")
    if not path.exists():
        warnings.simplefilter("ignore")
        source = path.with_name(f"{name}.{how}.f32.onnx")
        if how == "ours":
            export_ours(treatment, path)
        elif not source.exists():
            export(name, how, source)
        if how != "ours" and treatment != "f32":
            treat(name, treatment, source, path)
    return path


if __name__ == "__main__":
    for each in sys.argv[2:] or NAMES:
        print(make(each, sys.argv[1]), flush=True)
