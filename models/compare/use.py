"""One use of an operator on real operands, and how to say that something else was done with them.

A mistake is a function from a use to another one, whose call has another node, operator or semantics, or whose inputs
are others. What that gives, and how far f32 may be from it, then follows from the operators of the oracle: no formula
is written twice.

Where an engine rounds in another way, ``rule`` says it: a function that never falls, of the wide result. A value v with
the error e is then anywhere from rule(v - e) to rule(v + e).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.integer.products import Product
from refimpl.models.exact import Exact
from refimpl.models.oracle.execute import apply
from refimpl.models.oracle.graph import STANDARD
from refimpl.models.oracle.judge_nodes import computed, errors_of
from refimpl.models.oracle.operator import EXACT, Approx, Call
from refimpl.quant.affine import dynamic_parameters

PLACES = {
    "QuantizeLinear": ("x", "y_scale", "y_zero"),
    "DynamicQuantizeLinear": ("x",),
    "DequantizeLinear": ("x", "x_scale", "x_zero"),
    "MatMulInteger": ("a", "b", "a_zero", "b_zero"),
    "MatMulIntegerToFloat": ("a", "b", "a_scale", "b_scale", "a_zero", "b_zero", "bias"),
    "QLinearMatMul": ("a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"),
    "QGemm": ("a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "bias", "y_scale", "y_zero"),
    "QLinearAdd": ("a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"),
    "QLinearMul": ("a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"),
    "QLinearSoftmax": ("x", "x_scale", "x_zero", "y_scale", "y_zero"),
    "MatMul": ("a", "b"),
    "Gemm": ("a", "b", "bias"),
    "LayerNormalization": ("x", "weight", "bias"),
    "Softmax": ("x",),
    "Gather": ("table", "ids"),
}
"""Operator -> what its inputs are called here."""

Rule = Callable[[np.ndarray], np.ndarray]


class Use(NamedTuple):
    """call, xs : what is computed, of what; xs None where an optional input is left out
    constant : of each input, whether the file alone decides it
    sources : the operator that made each input, "" for constants and the graph's inputs
    rule : see the module; None is the operator's own
    narrow : the result is that of f32 arithmetic to the bit, or no result at all
    """

    call: Call
    xs: list[Approx | None]
    constant: tuple[bool, ...] = ()
    sources: tuple[str, ...] = ()
    rule: Rule | None = None
    narrow: bool = False

    @property
    def op(self) -> str:
        return self.call.node.op

    def place(self, name: str) -> int:
        """Where an input is; -1 if the operator has none of that name."""
        names = PLACES.get(self.op, ())
        return names.index(name) if name in names else -1

    def get(self, name: str) -> Approx | None:
        """An input by what it is called; None if it is left out."""
        i = self.place(name)
        return self.xs[i] if 0 <= i < len(self.xs) else None

    def put(self, **inputs: Approx | None) -> "Use":
        """With other inputs."""
        xs = self.xs + [None] * (len(PLACES[self.op]) - len(self.xs))
        for name, x in inputs.items():
            xs[self.place(name)] = x
        return self._replace(xs=xs)

    def replace_at(self, i: int, x: Approx) -> "Use":
        """With another input ``i``."""
        return self._replace(xs=[*self.xs[:i], x, *self.xs[i + 1 :]])

    def attributes(self, **changed: Any) -> "Use":
        """With other attributes."""
        node = self.call.node
        return self._replace(call=self.call._replace(node=node._replace(attributes=node.attributes | changed)))

    def becomes(self, op: str, *xs: Approx, domain: str = STANDARD, **attributes: Any) -> "Use":
        """Another operator, of other inputs."""
        node = self.call.node._replace(op=op, domain=domain, attributes=attributes)
        return self._replace(call=self.call._replace(node=node, operator=None), xs=list(xs))

    def only(self, x: Approx) -> "Use":
        """Nothing is done: the result is ``x``."""
        return self.becomes("Identity", x)

    def meaning(self, **changed: Any) -> "Use":
        """With other semantics."""
        return self._replace(call=self.call._replace(semantics=self.call.semantics._replace(**changed)))

    def multiplied(self, product: Product) -> "Use":
        """With another product of integers."""
        return self.meaning(product=product)

    def zero(self) -> np.ndarray:
        """The zero point of the codes that are made, f64."""
        if self.op == "DynamicQuantizeLinear":
            x = self.get("x")
            assert x is not None
            return np.rint(dynamic_parameters(x.value)[1])
        y_zero = self.get("y_zero")
        return np.zeros(()) if y_zero is None else y_zero.value.astype(np.float64)

    def in_steps(self, rule: Rule) -> "Use":
        """With codes that ``rule`` makes of quotients without the zero point."""
        zero = self.zero()
        return self._replace(rule=lambda q: rule(q - zero) + zero)


def value(x: Approx | None) -> np.ndarray:
    """Of an input that is there."""
    assert x is not None
    return x.value


def known(x: np.ndarray | float) -> Approx:
    """An input that is exactly ``x``, f64 if it is not integer."""
    array = np.asarray(x)
    return Approx(array.astype(np.float64) if array.dtype.kind == "f" else array, EXACT)


def scaled(x: Approx, factor: float | np.ndarray) -> Approx:
    """x times a number."""
    return Approx(np.asarray(x.value * factor), np.asarray(x.error * np.abs(factor)))


def moved(x: Approx, move: Callable[[np.ndarray], np.ndarray]) -> Approx:
    """The same numbers in other places."""
    return Approx(move(x.value), EXACT if x.known else move(x.full))


def rounded_to(x: Approx, rule: Rule) -> Approx:
    """x after a rounding."""
    made = rule(x.value)
    if x.known:
        return Approx(made, EXACT)
    return Approx(made, np.maximum(rule(x.value + x.error) - made, made - rule(x.value - x.error)))


def evaluate(use: Use) -> list[tuple[Exact | None, Approx | None]]:
    """``computed`` with the use's own rounding."""
    made = computed(use.call, use.xs)
    exact = made[0][0]
    if exact is None or (use.rule is None and not use.narrow):
        return made
    if use.narrow:
        ours = exact.value if exact.ours is None else exact.ours
        return [(Exact(ours.astype(np.float64), EXACT, exact.ours), Approx(ours, EXACT)), *made[1:]]
    assert use.rule is not None
    error = errors_of(use.call, use.xs, (exact.value,))[0]
    low, middle, high = (use.rule(part) for part in (exact.value - error, exact.value, exact.value + error))
    codes = None if exact.ours is None else use.rule(_narrow_quotient(use)).astype(exact.ours.dtype)
    carried = Approx(middle if codes is None else codes, np.maximum(high - middle, middle - low))
    return [(Exact((low + high) / 2, (high - low) / 2, codes), carried), *made[1:]]


def _narrow_quotient(use: Use) -> np.ndarray:
    """Codes before they are rounded, from f32 operands."""
    xs = [None if x is None else x.value for x in use.xs]
    return apply(use.call, [x.astype(np.float32) if x is not None and x.dtype.kind == "f" else x for x in xs])[0]
