"""The plan: which kernels run a batch, in order, on which tensors."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels.encoder import attention_f32, attention_u8s8, embed, layernorm
from refimpl.kernels.simd.threefold import KernelSource
from refimpl.models.runtime.lines import FIRST, HIDDEN, OUTPUTS, rows_of
from refimpl.models.runtime.memory import plan_memory
from refimpl.models.runtime.steps import Arrays, Plan, Shape, Step, Tensor, lives
from refimpl.models.runtime.weights import LayerWeights, LinearWeights, NormWeights, Weights
from refimpl.models.runtime.widths import ORDER, version


class Store(NamedTuple):
    """What a linear layer does with its accumulators: the field of ``Stores``, the dtype that it stores, in words."""

    name: str
    dtype: type
    fused: str


CODES = Store("codes", np.uint8, "product + scale + bias + quantize")
GELU_CODES = Store("gelu_codes", np.uint8, "product + scale + bias + GELU + quantize")
FLOATS = Store("f32", np.float32, "product + scale + bias")
GELU_FLOATS = Store("gelu_f32", np.float32, "product + scale + bias + GELU")
SUM = Store("sum", np.float32, "product + scale + bias + residual")

ROWS = ("row_ids", "row_mask", "row_types")
"""Of a batch, as it is given: s64."""
TOKENS, TEXTS = ("ids", "places", "types"), ("first", "lengths")


NONE = np.zeros(0, np.uint8)


def read(x: str, p: LinearWeights) -> str:
    """What a layer reads of a normalized tensor: its codes, or itself."""
    return x if p.step is None else x + ".codes"


def make_plan(weights: Weights, shape: Shape) -> Plan:
    """The steps for batches of a shape, and where their tensors lie."""
    tokens = shape.width * shape.panels
    inputs = {name: Tensor(np.uint64, tokens) for name in TOKENS}
    inputs |= {name: Tensor(np.int64, shape.texts) for name in TEXTS}
    inputs |= {name: Tensor(np.int64, shape.rows) for name in (*ROWS, "sources")}
    builder = _Builder(weights, shape)
    steps = tuple(builder.steps())
    return Plan(shape, inputs, _filling(shape, inputs), steps, plan_memory(lives(inputs, steps)))


def _filling(shape: Shape, inputs: dict[str, Tensor]) -> Step:
    made = (*TEXTS, *TOKENS, "sources")
    return Step(
        "tokens",
        shape,
        embed.side_by_side,
        ROWS,
        {name: inputs[name] for name in made},
        lambda a: (*(a[name] for name in ROWS), shape.align, *(a[name] for name in made)),
        fused="texts without their padding, side by side",
    )


def lacking(weights: Weights, width: int) -> list[str]:
    """The CPU features that kernels for panels of this width need, and this CPU lacks."""
    steps = _Builder(weights, Shape(width, panels=1, texts=1, most=1, rows=1, threads=1, align=width)).steps()
    return sorted({feature for step in steps for feature in step.kernel.missing()})


class _Builder:
    def __init__(self, weights: Weights, shape: Shape):
        self.weights, self.shape = weights, shape
        config = weights.config
        self.d, self.head_size = config.hidden, config.head_size

    @property
    def tokens(self) -> int:
        """Lanes of all panels."""
        return self.shape.width * self.shape.panels

    def version(self, source: KernelSource) -> KernelSource:
        """For the width of the panels."""
        return version(source, self.shape.width)

    def steps(self) -> Iterable[Step]:
        yield from self.embedding()
        yield self.norm("embeddings", "embedding_sum", self.weights.norm)
        x = "embeddings"
        for i, layer in enumerate(self.weights.layers):
            yield from self.layer(f"layer.{i}.", layer, x)
            x = f"layer.{i}.output_norm"
        d, outputs = self.d, self.weights.outputs
        if outputs is not None:
            yield self.linear(OUTPUTS, FLOATS, outputs, x)
            x, (d, _) = OUTPUTS, outputs.shape
        yield self.unpacking(x, d)

    def layer(self, prefix: str, p: LayerWeights, x: str) -> Iterable[Step]:
        """Between two layers lie codes where the second reads codes, and f32 where it reads f32."""
        attended = prefix + "attention_norm"
        context, hidden = prefix + "context", prefix + "gelu"
        if p.attention_output.step is not None:
            context = prefix + "attention_output.codes"
        if p.output.step is not None:
            hidden = prefix + "output.codes"
        qkv = CODES if self.weights.integer_attention else FLOATS
        yield self.linear(prefix + "qkv", qkv, p.qkv, read(x, p.qkv))
        yield self.attention(context, prefix + "qkv", p)
        if self.shape.picked and p is self.weights.layers[-1]:
            dtype = np.float32 if p.attention_output.step is None else np.uint8
            picks = self.pick({context: (dtype, p.attention_output.shape[1]), x: (np.float32, self.d)})
            yield from picks
            context, x = (step.name for step in picks)
        yield self.linear(prefix + "attention_sum", SUM, p.attention_output, context, x)
        yield self.norm(attended, prefix + "attention_sum", p.attention_norm)
        gelu = GELU_FLOATS if p.output.step is None else GELU_CODES
        yield self.linear(hidden, gelu, p.intermediate, read(attended, p.intermediate))
        yield self.linear(prefix + "output_sum", SUM, p.output, hidden, attended)
        yield self.norm(prefix + "output_norm", prefix + "output_sum", p.output_norm)

    def embedding(self) -> Iterable[Step]:
        w, lanes, size = self.weights, ORDER[self.shape.width], self.tokens * self.d
        d = np.uint64(self.d)
        yield Step(
            "embedding_rows",
            self.shape,
            embed.embed,
            TOKENS,
            {"embedding_rows": Tensor(np.float32, size)},
            lambda a: (
                *(a[name] for name in TOKENS), w.word, w.scale, w.position, w.token_type, d, a["embedding_rows"],
            ),
            fused="word + position + token type",
        )  # fmt: skip
        yield Step(
            "embedding_sum",
            self.shape,
            embed.to_panels,
            ("embedding_rows",),
            {"embedding_sum": Tensor(np.float32, size)},
            lambda a: (a["embedding_rows"], lanes, d, a["embedding_sum"]),
            fused="tokens to panels",
        )

    def norm(self, name: str, x: str, p: NormWeights) -> Step:
        size, coded = self.tokens * self.d, p.step is not None
        made = {name: Tensor(np.float32, size, over=x)}
        if coded:
            made[name + ".codes"] = Tensor(np.uint8, size)
        weight, bias, eps, step = p.norm.weight, p.norm.bias, np.float32(p.norm.eps), p.step if coded else np.float32(1)

        def arguments(a: Arrays) -> tuple[Any, ...]:
            codes = a[name + ".codes"] if coded else NONE
            return a[x], self.d, np.float32(self.d), weight, bias, eps, step, codes

        kernel = layernorm.layernorm_codes if coded else layernorm.layernorm_f32
        fused = "layer norm + quantize" if coded else "layer norm"
        return Step(name, self.shape, self.version(kernel), (x,), made, arguments, fused=fused)

    def linear(self, name: str, store: Store, p: LinearWeights, x: str, residual: str = "") -> Step:
        m, k = p.shape
        tensor = Tensor(store.dtype, self.tokens * m, over=residual)
        reads = (x, residual) if residual else (x,)
        needs = enumerate(p.form.scratch(k, self.tokens, self.shape.threads))
        scratch = {f"{name}.scratch{i}": Tensor(dtype, size) for i, (dtype, size) in needs}

        def arguments(a: Arrays) -> tuple[Any, ...]:
            return (*p.arrays, *p.parameters, a[x], k, *(a[part] for part in scratch), a[name])

        kernel = self.version(getattr(p.form.stores, store.name))
        return Step(name, self.shape, kernel, reads, {name: tensor}, arguments, scratch, store.fused)

    def attention(self, name: str, qkv: str, p: LayerWeights) -> Step:
        shape, d, factors = self.shape, p.attention_output.shape[1], p.factors
        coded = p.attention_output.step is not None
        integer = self.weights.integer_attention
        e, most, workers = self.head_size, shape.most * shape.width, shape.threads
        scratch = {
            "scores": Tensor(np.float32, workers * most * shape.width),
            "bytes": Tensor(np.uint8, workers * (e + 2 * most if integer else 1) * shape.width),
        }
        if integer:
            scratch |= {
                "small": Tensor(np.int8, workers * 2 * e * most),
                "sums": Tensor(np.int32, workers * most),
            }
        scratch = {f"{name}.{part}": tensor for part, tensor in scratch.items()}

        def arguments(a: Arrays) -> tuple[Any, ...]:
            scores, bytes_ = a[f"{name}.scores"], a[f"{name}.bytes"]
            given = (a["first"], a["lengths"], d // e, d, factors, most)
            if not integer:
                return (a[qkv], *given, scores, bytes_, workers, a[name])
            parts = bytes_, a[f"{name}.small"], a[f"{name}.sums"], scores
            return (a[qkv], a[qkv].view(np.int8), *given, *parts, workers, a[name])

        if integer:
            kernel = attention_u8s8.attention_u8s8 if coded else attention_u8s8.attention_u8s8_to_f32
        else:
            kernel = attention_f32.attention_f32 if coded else attention_f32.attention_f32_to_f32
        return Step(
            name,
            shape,
            self.version(kernel),
            (qkv, "first", "lengths"),
            {name: Tensor(np.uint8 if coded else np.float32, self.tokens * d)},
            arguments,
            scratch,
            f"scores + softmax + context{' + quantize' if coded else ''}, all heads",
        )

    def pick(self, tensors: dict[str, tuple[type, int]]) -> list[Step]:
        """Panels of all tokens, name -> dtype and numbers of a token, to panels of each text's first token, which all
        later steps have."""
        wide = self.shape
        self.shape = wide._replace(width=wide.picked, panels=-(-wide.texts // wide.picked))

        def step(x: str, dtype: type, d: int) -> Step:
            made = x + FIRST
            places, lanes = (places_in(dtype, width) for width in (wide.width, wide.picked))
            return Step(
                made,
                self.shape,
                embed.pick_first,
                (x, "first"),
                {made: Tensor(dtype, self.tokens * d)},
                lambda a: (a[x], a["first"], places, lanes, np.uint64(d), a[made]),
                fused="each text's first token, all that the head reads",
            )

        return [step(x, *kind) for x, kind in tensors.items()]

    def unpacking(self, x: str, d: int) -> Step:
        """d: numbers of a token. Of what was picked, text n's token is token n."""
        places = places_in(np.float32, self.shape.width)
        texts = np.arange(self.shape.texts)
        return Step(
            HIDDEN,
            self.shape,
            embed.to_rows,
            (x,) if self.shape.picked else (x, "sources"),
            {HIDDEN: Tensor(np.float32, rows_of(self.shape) * d)},
            lambda a: (a[x], texts if self.shape.picked else a["sources"], places, np.uint64(d), a[HIDDEN]),
            fused="panels to tokens",
        )


def places_in(dtype: type, width: int) -> np.ndarray:
    """Where in a row of a panel each token is: u64 (W,)."""
    return np.argsort(ORDER[width]).astype(np.uint64) if dtype == np.float32 else np.arange(width, dtype=np.uint64)
