"""Full-size ONNX models as the tools around BERT write them, made on demand: ``make(name, folder)``.

A name is BASE.EXPORT.TOOL; ``NAMES`` has those that make sense.

    base    minilm          all-MiniLM-L6-v2, real weights: 6 layers, 384 wide
            tiny_sst2       BERT-Tiny of SST-2, real weights without embeddings: 2 layers, 128 wide
            bert            BERT-base's shape, 2 layers, random weights with outlier channels, 2048 words
            distilbert      DistilBERT's shape, 2 layers, the same
    export  eager, sdpa     torch.onnx, TorchScript exporter; attention written out or as one operator
            eager_fixed     the same with fixed lengths
            dynamo_eager    torch.onnx, dynamo exporter; needs onnxscript (also dynamo_sdpa)
            ours            our own, f32
            ours_int8       our own, quantized
    tool    plain           as exported
            fused           onnxruntime.transformers optimizer: Attention, SkipLayerNormalization, BiasGelu ...
            dynamic         onnxruntime.quantization.quantize_dynamic; fused_dynamic: of the fused model
            FORMAT_AW_GRAIN onnxruntime.quantization.quantize_static. FORMAT qdq or operators; A, W types of activations
                            and weights, u8 or s8; GRAIN tensor or channel; then _reduced for reduce_range
            fused_qdq       quantize_static of the fused model
            fused_weights   the same without types of tensors: only weights are quantized
            nncf            NNCF's post-training quantization; needs nncf
            clipped         the codes of weights times 4, clipped: CPUs without VNNI saturate nearly everywhere

Needs torch, transformers and onnxruntime.
"""

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from transformers import AutoModel, BertConfig, BertForSequenceClassification, BertModel, DistilBertConfig
from transformers import DistilBertModel as DistilBert

TINY_SST2 = Path(__file__).parents[3] / "shared" / "data" / "bert_tiny_sst2"
TEXTS = ["a film that works", "it does not, and it is far too long for what it has to say", "The fox jumps.", "Why?"]
VOCABULARY = 2048
TYPES = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
GRID = [
    f"{form}_{types}_{grain}{reduced}"
    for form in ("qdq", "operators")
    for types in ("u8s8", "s8s8", "u8u8")
    for grain in ("tensor", "channel")
    for reduced in ("", "_reduced")
]
EXPORTS = ("eager", "sdpa", "eager_fixed", "dynamo_eager", "dynamo_sdpa")
NAMES = [
    *(f"minilm.{export}.plain" for export in EXPORTS),
    *(f"minilm.eager.{tool}" for tool in ("dynamic", "fused", "fused_dynamic", "fused_qdq", "fused_weights", "nncf")),
    *(f"minilm.eager.{tool}" for tool in GRID),
    "minilm.sdpa.qdq_u8s8_channel", "minilm.ours.plain", "minilm.ours_int8.plain", "minilm.ours_int8.clipped",
    *(f"tiny_sst2.eager.{tool}" for tool in ("plain", "dynamic", "qdq_u8s8_channel", "nncf")),
    *(
        f"{base}.{made}"
        for base in ("bert", "distilbert")
        for made in ("eager.plain", "sdpa.plain", "dynamo_sdpa.plain", "eager.fused", "eager.dynamic",
                     "eager.fused_dynamic", "eager.qdq_u8s8_channel", "eager.operators_u8s8_tensor", "eager.nncf")
    ),
]  # fmt: skip


class Base(NamedTuple):
    """model: built with that attention; kind: what the optimizer calls it; heads and hidden are the model's."""

    model: torch.nn.Module
    kind: str
    heads: int
    hidden: int


class Positional(torch.nn.Module):
    """The exporter passes inputs by position, the model takes them by name."""

    def __init__(self, model: torch.nn.Module, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True)))[0]


# --- bases -----------------------------------------------------------------------------------------------------------


def minilm(attention: str) -> Base:
    from refimpl.models.embedded import demo_model

    model = AutoModel.from_pretrained(demo_model(), attn_implementation=attention)
    return Base(model, "bert", 12, 384)


def with_outliers(model: torch.nn.Module) -> torch.nn.Module:
    """Wider weights than fresh ones, so that something varies, and a few channels of each norm that are ten times as
    large as others, as trained models have them."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(2) if p.ndim > 1 else p.add_(torch.randn_like(p) * 0.1)
            if "LayerNorm.weight" in name or "layer_norm.weight" in name:
                p[torch.randperm(len(p))[:6]] *= 10
    return model


def bert(attention: str) -> Base:
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=2, vocab_size=VOCABULARY, attn_implementation=attention)
    return Base(with_outliers(BertModel(config, add_pooling_layer=False)), "bert", 12, 768)


def distilbert(attention: str) -> Base:
    torch.manual_seed(0)
    config = DistilBertConfig(n_layers=2, vocab_size=VOCABULARY, attn_implementation=attention)
    return Base(with_outliers(DistilBert(config)), "bert", 12, 768)


def tiny_sst2(attention: str) -> Base:
    """Its embeddings are its inputs."""
    from safetensors.torch import load_file

    config = BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512, vocab_size=8,
        attn_implementation=attention,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    (weights,) = TINY_SST2.glob("*.safetensors")
    missing, unknown = model.load_state_dict(load_file(weights), strict=False)
    if unknown or any("embeddings" not in name for name in missing):
        raise ValueError(f"{weights} lacks {missing} and has {unknown}")
    model.bert.embeddings = Given()
    return Base(model, "bert", 2, 128)


class Given(torch.nn.Module):
    """In the place of an embedding layer: what it would have made is given."""

    def forward(self, inputs_embeds: torch.Tensor, **_: Any) -> torch.Tensor:
        return inputs_embeds


BASES = {"minilm": minilm, "bert": bert, "distilbert": distilbert, "tiny_sst2": tiny_sst2}


# --- inputs ----------------------------------------------------------------------------------------------------------


def batches(base: str, shapes: list[tuple[int, int]], padded: bool = True) -> Iterator[dict[str, np.ndarray]]:
    """One batch a shape, real texts where there is a tokenizer; if padded, every row but the first ends in padding."""
    random = np.random.default_rng(1)
    for shape in shapes:
        mask = np.ones(shape, np.int64)
        for row in range(1, shape[0] if padded else 1):
            mask[row, shape[1] - row * shape[1] // (shape[0] + 1) :] = 0
        if base == "tiny_sst2":
            yield {"inputs_embeds": _sentences(shape), "attention_mask": mask}
            continue
        ids = _tokens(shape, random) if base == "minilm" else random.integers(0, VOCABULARY, shape)
        yield {"input_ids": ids * mask, "attention_mask": mask}


def _tokens(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Rows of English, cut where the length says."""
    from refimpl.models.compress import load
    from refimpl.models.embedded import demo_model

    tokenizer = load(demo_model()).tokenizer
    rows = []
    for _ in range(shape[0]):
        text = " ".join(random.permutation(TEXTS * (shape[1] // 8 + 1)))
        rows.append(tokenizer.encode([text])[0][0, : shape[1]])
    return np.array(rows, np.int64)


def _sentences(shape: tuple[int, int]) -> np.ndarray:
    with np.load(TINY_SST2 / "sample_embeddings.npz") as file:
        arrays = [file[name].reshape(-1, 128).astype(np.float32) for name in file.files]
    tokens = np.concatenate(arrays)
    return np.resize(tokens, (*shape, 128)).astype(np.float32)


def calibration(base: str) -> Iterator[dict[str, np.ndarray]]:
    """Without padding: a range of scores that includes those of masked keys leaves the others one code."""
    return batches(base, [(1, 8), (1, 17), (2, 24)], padded=False)


class Samples(CalibrationDataReader):
    def __init__(self, base: str):
        self.rows = calibration(base)

    def get_next(self) -> Any:
        return next(self.rows, None)


# --- exports ---------------------------------------------------------------------------------------------------------


def by_torch(name: str, how: str, path: Path) -> Path:
    """how: eager, sdpa, eager_fixed, dynamo_eager or dynamo_sdpa."""
    words = how.split("_")
    base = BASES[name]("sdpa" if "sdpa" in words else "eager")
    (example,) = batches(name, [(2, 16)])
    names = list(example)
    given = tuple(torch.from_numpy(array) for array in example.values())
    wrapped = Positional(base.model.eval(), names).eval()
    if "dynamo" in words:
        sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("tokens", min=2, max=512)}
        made = torch.onnx.export(
            wrapped, given, None, dynamo=True, input_names=names, output_names=["output"], verbose=False,
            dynamic_shapes=(tuple(dict(sizes) for _ in names),),
        )  # fmt: skip
        made.save(str(path))
        return path
    axes = {} if "fixed" in words else {key: {0: "batch", 1: "tokens"} for key in names}
    torch.onnx.export(
        wrapped, given, str(path), dynamo=False, opset_version=17, input_names=names, output_names=["output"],
        dynamic_axes=axes,
    )  # fmt: skip
    return path


def by_us(name: str, how: str, path: Path) -> Path:
    from refimpl.models import compress
    from refimpl.models.embedded import demo_model
    from refimpl.models.export import export_onnx

    dense = compress.load(demo_model())
    model = dense.model
    if how == "ours_int8":
        calibration = [dense.tokenizer.encode(TEXTS)]
        model = compress.quantize(compress.calibrate(compress.prune(dense, 1.0), calibration)).model
    export_onnx(model, path)
    return path


# --- tools -----------------------------------------------------------------------------------------------------------


def fuse(base: str, source: Path, path: Path) -> None:
    sizes = BASES[base]("eager")
    made = optimizer.optimize_model(
        str(source), sizes.kind, num_heads=sizes.heads, hidden_size=sizes.hidden, opt_level=0,
        optimization_options=FusionOptions(sizes.kind),
    )  # fmt: skip
    made.save_model_to_file(str(path))


def dynamic(base: str, source: Path, path: Path) -> None:
    guess = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(str(source), str(path), weight_type=QuantType.QInt8, extra_options=guess)


def static(base: str, source: Path, path: Path, how: str = "qdq_u8s8_channel") -> None:
    form, types, grain, *reduced = how.split("_")
    quantize_static(
        str(source), str(path), Samples(base), per_channel=grain == "channel", reduce_range=bool(reduced),
        quant_format=QuantFormat.QDQ if form == "qdq" else QuantFormat.QOperator,
        activation_type=TYPES[types[:2]], weight_type=TYPES[types[2:]],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )  # fmt: skip


def by_nncf(base: str, source: Path, path: Path) -> None:
    import nncf

    model = onnx.load(source)
    onnx.save(nncf.quantize(model, nncf.Dataset(list(calibration(base))), model_type=nncf.ModelType.TRANSFORMER), path)


def after_fusion(then: Any, base: str, source: Path, path: Path, types: bool = False) -> None:
    """types: say those of the fused operators' results. Without them quantize_static leaves activations as they are."""
    middle = path.with_suffix(".fused.onnx")
    fuse(base, source, middle)
    if types:
        made = onnx.load(middle)
        names = [name for node in made.graph.node if node.domain for name in node.output[:1]]
        made.graph.value_info.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
        onnx.save(made, middle)
    then(base, middle, path)
    middle.unlink()


def clipped(base: str, source: Path, path: Path) -> None:
    made = onnx.load(source)
    stored = {node.input[0]: node.input[1] for node in made.graph.node if node.op_type == "DequantizeLinear"}
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    for name in stored.keys() & constants.keys():
        codes, scale = (numpy_helper.to_array(constants[n]) for n in (name, stored[name]))
        if codes.dtype == np.int8:
            codes = np.clip(codes.astype(np.int32) * 4, -127, 127).astype(np.int8)
            constants[name].CopyFrom(numpy_helper.from_array(codes, name))
            constants[stored[name]].CopyFrom(numpy_helper.from_array(scale / np.float32(4), stored[name]))
    onnx.save(made, path)


TOOLS: dict[str, Any] = {
    "clipped": clipped, "fused": fuse, "dynamic": dynamic, "nncf": by_nncf,
    "fused_dynamic": partial(after_fusion, dynamic), "fused_qdq": partial(after_fusion, static, types=True),
    "fused_weights": partial(after_fusion, static), **{how: partial(static, how=how) for how in GRID},
}  # fmt: skip


def make(name: str, folder: Path) -> Path:
    """The file of that name, made in ``folder``."""
    base, export, tool = name.split(".")
    path, source = folder / f"{name}.onnx", folder / f"{base}.{export}.source.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maker = by_us if export.startswith("ours") else by_torch
        if tool == "plain":
            return maker(base, export, path)
        if not source.exists():
            maker(base, export, source)
        TOOLS[tool](base, source, path)
    return path


def optimized(path: Path) -> Path:
    """What ONNX Runtime runs in the place of a file, as a file beside it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    made = path.with_suffix(".optimized.onnx")
    options.optimized_model_filepath = str(made)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return made
