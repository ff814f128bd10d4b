"""Remake tests/golden/onnx: one tiny BERT as the tools around it write it. Needs torch, transformers, onnxruntime.

torch            torch.onnx (TorchScript exporter), attention written out
torch_sdpa       the same with scaled_dot_product_attention, whose masks are -inf
fused            onnxruntime.transformers.optimizer: Attention, SkipLayerNormalization, EmbedLayerNormalization
fused_heads      the same with MultiHeadAttention
static_qdq       onnxruntime.quantization.quantize_static, QDQ, one scale per output channel
static_operators the same in QLinear operators
dynamic          onnxruntime.quantization.quantize_dynamic
fused_dynamic    the same of the fused model: QAttention, QEmbedLayerNormalization
dynamic_fused    dynamic, fused by ONNX Runtime: DynamicQuantizeMatMul
static_fused     static_qdq, fused by ONNX Runtime
"""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from transformers import BertConfig, BertForSequenceClassification

FOLDER = Path(__file__).parent / "onnx"
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "vocab_size": 41, "max_position_embeddings": 24,
}  # fmt: skip


class Positional(torch.nn.Module):
    """The exporter passes inputs by position, the model takes them by name."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]


class Samples(CalibrationDataReader):
    def __init__(self):
        random = np.random.default_rng(0)
        ones = np.ones((3, 9), np.int64)
        self.rows = iter([{"input_ids": random.integers(0, 41, (3, 9)), "attention_mask": ones} for _ in range(4)])

    def get_next(self):
        return next(self.rows, None)


def export(name, attention):
    torch.manual_seed(0)
    config = BertConfig(**SIZES)
    config._attn_implementation = attention
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for p in model.parameters():  # fresh weights are so small that nothing in the model would vary
            p.mul_(4) if p.ndim > 1 else p.add_(torch.randn_like(p) * 0.1)
    names, axes = ["input_ids", "attention_mask"], {0: "batch", 1: "tokens"}
    ids, mask = torch.ones(3, 9, dtype=torch.long), torch.ones(3, 9, dtype=torch.long)
    torch.onnx.export(
        Positional(model), (ids, mask), str(FOLDER / f"{name}.onnx"), dynamo=False, opset_version=17,
        input_names=names, output_names=["output"], dynamic_axes=dict.fromkeys(names, axes),
    )  # fmt: skip


def path(name):
    return str(FOLDER / f"{name}.onnx")


def fuse(name, heads):
    options = FusionOptions("bert")
    options.use_multi_head_attention = heads
    made = optimizer.optimize_model(
        path("torch"), "bert", num_heads=2, hidden_size=32, opt_level=0, optimization_options=options
    )
    made.save_model_to_file(path(name))


def fused_by_runtime(source, name):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = path(name)
    ort.InferenceSession(path(source), options, providers=["CPUExecutionProvider"])


def main():
    warnings.simplefilter("ignore")
    FOLDER.mkdir(exist_ok=True)
    export("torch", "eager")
    export("torch_sdpa", "sdpa")
    fuse("fused", False)
    fuse("fused_heads", True)
    quantize_static(path("torch"), path("static_qdq"), Samples(), quant_format=QuantFormat.QDQ, per_channel=True)
    quantize_static(path("torch"), path("static_operators"), Samples(), quant_format=QuantFormat.QOperator)
    quantize_dynamic(path("torch"), path("dynamic"), weight_type=QuantType.QInt8)
    guess = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(path("fused"), path("fused_dynamic"), weight_type=QuantType.QInt8, extra_options=guess)
    fused_by_runtime("dynamic", "dynamic_fused")
    fused_by_runtime("static_qdq", "static_fused")
    for file in FOLDER.glob("*.onnx"):  # the exporter's notes, with paths of the machine, are not needed
        model = onnx.load(file)
        for node in model.graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
        onnx.save(model, file)


if __name__ == "__main__":
    main()
