"""The tape: an op table that remembers what it computes, so that gradients can be taken of whatever was wired with it.

    tape = Tape()
    y = forward(model, batch, tape.ops, tap)              y is a Value, and so is whatever the tap sees
    gradients = tape.backward([(y, dy)])                  id of a parameter array -> its gradient
    tape.backward([(y, dy), (hidden, dhidden)])           a loss of several values

Each operator computes at once, by a table of operators (``forwards``), and leaves a function that turns the gradient of
its result into those of what it was given, by another (``Backwards``). ``backward`` calls these from the last to the
first. What is used more than once gets the sum; a parameter that is shared is one array, and so has one gradient.

Dropout is a tap, since the five places where BERT has it are taps: ``Dropping``.

A linear layer of another kind (masked, under fake quantization) is another type of parameters, and ``linears`` says
what to compute with it. Source: reverse accumulation, Griewank, Walther, Evaluating Derivatives, section 3.2.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from refimpl.nn import attention as attend
from refimpl.nn.dropout import PLACES, draw, dropout
from refimpl.nn.elementwise import relu_backward, tanh_backward, unbroadcast
from refimpl.nn.embedding import embedding_backward, position_embedding_backward
from refimpl.nn.gelu import gelu_backward
from refimpl.nn.layernorm import layernorm_backward
from refimpl.nn.linear import linear_backward
from refimpl.nn.mean_pooling import l2_normalize_backward, mean_pool_backward
from refimpl.nn.ops import REFERENCE, Ops
from refimpl.nn.params import Linear, Norm
from refimpl.nn.pooler import first_token_backward
from refimpl.nn.softmax import softmax_backward
from refimpl.nn.taps import NO_TAP, SEPARATOR, Tap


class Value:
    """A result. data: float (...); gradient: of the same shape, while ``backward`` runs."""

    __slots__ = ("data", "gradient")

    def __init__(self, data: np.ndarray):
        self.data = data
        self.gradient: np.ndarray | None = None

    def add(self, gradient: np.ndarray) -> None:
        """One more use of the value."""
        self.gradient = gradient if self.gradient is None else self.gradient + gradient


class LinearKind(NamedTuple):
    """What the tape does with one type of linear parameters.

    forward: (x, p) -> y and whatever backward wants; backward: (dy, that) -> dx, and (parameter array, its gradient)
    of each that is trained.
    """

    forward: Callable[[np.ndarray, Any], tuple[np.ndarray, Any]]
    backward: Callable[[np.ndarray, Any], tuple[np.ndarray, Iterable[tuple[np.ndarray, np.ndarray]]]]


class Backwards(NamedTuple):
    """Of the operators that are worth another implementation; signatures are those of the functions of these names."""

    linear: Callable[..., Any] = linear_backward
    layernorm: Callable[..., Any] = layernorm_backward
    softmax: Callable[..., Any] = softmax_backward
    gelu: Callable[..., Any] = gelu_backward
    embedding: Callable[..., Any] = embedding_backward
    attention_scores: Callable[..., Any] = attend.attention_scores_backward
    attention_context: Callable[..., Any] = attend.attention_context_backward
    dropout: Callable[..., Any] = dropout


class Tape:
    """One forward pass and its gradients. ``linears``: type of parameters -> what to do, beside ``Linear``."""

    def __init__(
        self,
        forwards: Ops = REFERENCE,
        backwards: Backwards = Backwards(),  # noqa: B008
        linears: Mapping[type, LinearKind] | None = None,
    ):
        self.forwards, self.backwards = forwards, backwards
        plain = LinearKind(
            lambda x, p: (forwards.linear(x, p), (x, p)),
            lambda dy, given: _of_linear(backwards.linear(dy, *given), given[1]),
        )
        self.linears = {Linear: plain, **(linears or {})}
        self.steps: list[tuple[Value, Callable[[np.ndarray], None]]] = []
        self.gradients: dict[int, np.ndarray] = {}

    @property
    def ops(self) -> Ops:
        """The op table. Not kept: a tape that holds itself keeps its gradients until the garbage collector comes."""
        return Ops(*(getattr(self, name) for name in Ops._fields))

    def backward(self, ends: Iterable[tuple[Value, np.ndarray]]) -> dict[int, np.ndarray]:
        """The gradient of sum over (value, gradient) of <value, gradient>: id of a parameter array -> gradient.

        Of parameters that the values depend on, in the order in which their gradients were complete.
        """
        for value, gradient in ends:
            value.add(gradient)
        while self.steps:
            value, step = self.steps.pop()
            if value.gradient is not None:
                step(value.gradient)
                value.gradient = None
        return self.gradients

    def record(self, data: np.ndarray, backward: Callable[[np.ndarray], None]) -> Value:
        """A result, and what to do with its gradient."""
        value = Value(data)
        self.steps.append((value, backward))
        return value

    def unary(self, x: Value, data: np.ndarray, backward: Callable[[np.ndarray], np.ndarray]) -> Value:
        """A result of one value."""
        return self.record(data, lambda dy: x.add(backward(dy)))

    def parameter(self, array: np.ndarray, gradient: np.ndarray) -> None:
        """One more use of a parameter."""
        known = self.gradients.pop(id(array), None)
        # asarray: of arrays without a dimension NumPy's sum is a scalar.
        self.gradients[id(array)] = gradient if known is None else np.asarray(known + gradient)

    def embedding(self, ids: np.ndarray, table: np.ndarray) -> Value:
        return self.record(
            self.forwards.embedding(ids, table),
            lambda dy: self.parameter(table, self.backwards.embedding(dy, ids, len(table))),
        )

    def position_embedding(self, ids: np.ndarray, table: np.ndarray) -> Value:
        return self.record(
            self.forwards.position_embedding(ids, table),
            lambda dy: self.parameter(table, position_embedding_backward(dy, len(table))),
        )

    def add(self, x: Value, y: Value) -> Value:
        def backward(dy: np.ndarray) -> None:
            for part in (x, y):
                part.add(unbroadcast(dy, part.data.shape))

        return self.record(self.forwards.add(x.data, y.data), backward)

    def linear(self, x: Value, p: Any, tap: Tap = NO_TAP) -> Value:
        if type(p) not in self.linears:
            raise TypeError(f"a linear layer is {type(p).__name__}; need {', '.join(k.__name__ for k in self.linears)}")
        kind = self.linears[type(p)]
        y, kept = kind.forward(x.data, p)

        def backward(dy: np.ndarray) -> None:
            dx, parts = kind.backward(dy, kept)
            x.add(dx)
            for array, gradient in parts:
                self.parameter(array, gradient)

        return self.record(y, backward)

    def layernorm(self, x: Value, p: Norm) -> Value:
        return self.record(self.forwards.layernorm(x.data, p), lambda dy: x.add(self._norm(dy, x.data, p)))

    def add_layernorm(self, x: Value, residual: Value, p: Norm) -> Value:
        """The sum is kept, for its norm's backward."""
        total = self.forwards.add(x.data, residual.data)

        def backward(dy: np.ndarray) -> None:
            d = self._norm(dy, total, p)
            x.add(d)
            residual.add(d)

        return self.record(self.forwards.layernorm(total, p), backward)

    def _norm(self, dy: np.ndarray, x: np.ndarray, p: Norm) -> np.ndarray:
        dx, d = self.backwards.layernorm(dy, x, p)
        self.parameter(p.weight, d.weight)
        self.parameter(p.bias, d.bias)
        return np.asarray(dx)

    def split_heads(self, x: Value, heads: int) -> Value:
        return self.unary(x, self.forwards.split_heads(x.data, heads), attend.merge_heads)

    def merge_heads(self, x: Value) -> Value:
        heads = x.data.shape[1]
        return self.unary(x, self.forwards.merge_heads(x.data), lambda dy: attend.split_heads(dy, heads))

    def attention_operands(self, q: Value, k: Value, v: Value, scales: Any, tap: Tap = NO_TAP) -> Any:
        return self.forwards.attention_operands(q, k, v, scales, tap)

    def attention_scores(self, q: Value, k: Value, mask: np.ndarray) -> Value:
        def backward(dy: np.ndarray) -> None:
            for part, d in zip((q, k), self.backwards.attention_scores(dy, q.data, k.data), strict=True):
                part.add(d)

        return self.record(self.forwards.attention_scores(q.data, k.data, mask), backward)

    def softmax(self, x: Value) -> Value:
        y = self.forwards.softmax(x.data)
        return self.unary(x, y, lambda dy: self.backwards.softmax(dy, y))

    def attention_context(self, probs: Value, v: Value, tap: Tap = NO_TAP) -> Value:
        def backward(dy: np.ndarray) -> None:
            for part, d in zip((probs, v), self.backwards.attention_context(dy, probs.data, v.data), strict=True):
                part.add(d)

        return self.record(self.forwards.attention_context(probs.data, v.data), backward)

    def gelu(self, x: Value) -> Value:
        return self.unary(x, self.forwards.gelu(x.data), lambda dy: self.backwards.gelu(dy, x.data))

    def tanh(self, x: Value) -> Value:
        y = self.forwards.tanh(x.data)
        return self.unary(x, y, lambda dy: tanh_backward(dy, y))

    def relu(self, x: Value) -> Value:
        return self.unary(x, self.forwards.relu(x.data), lambda dy: relu_backward(dy, x.data))

    def first_token(self, x: Value) -> Value:
        tokens = x.data.shape[1]
        return self.unary(x, self.forwards.first_token(x.data), lambda dy: first_token_backward(dy, tokens))

    def mean_pool(self, x: Value, mask: np.ndarray) -> Value:
        return self.unary(x, self.forwards.mean_pool(x.data, mask), lambda dy: mean_pool_backward(dy, mask))

    def l2_normalize(self, x: Value) -> Value:
        return self.unary(x, self.forwards.l2_normalize(x.data), lambda dy: l2_normalize_backward(dy, x.data))

    def dropout(self, x: Value, p: float, generator: np.random.Generator) -> Value:
        """A fresh draw; ``x`` itself for p = 0."""
        if p == 0:
            return x
        keep = draw(x.data.shape, p, generator)
        return self.unary(x, self.backwards.dropout(x.data, keep, p), lambda dy: self.backwards.dropout(dy, keep, p))


def _of_linear(found: tuple[np.ndarray, Linear], p: Linear) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    dx, d = found
    return dx, [(p.weight, d.weight), (p.bias, d.bias)]


class Dropping:
    """A tap that drops, with probability p, at ``PLACES``, and shows ``tap`` what the pass goes on with."""

    def __init__(self, tape: Tape, p: float, generator: np.random.Generator, tap: Tap = NO_TAP, prefix: str = ""):
        self.tape, self.p, self.generator, self.tap, self.prefix = tape, p, generator, tap, prefix

    def __call__(self, name: str, value: Any) -> Any:
        if name in PLACES and (self.prefix or name != "output"):
            value = self.tape.dropout(value, self.p, self.generator)
        return self.tap(name, value)

    def scope(self, name: str) -> "Dropping":
        return Dropping(self.tape, self.p, self.generator, self.tap.scope(name), self.prefix + name + SEPARATOR)
