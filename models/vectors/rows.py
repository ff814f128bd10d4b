"""Vectors of the row-wise operators in f32: f64 results with ``refimpl.bounds`` around them.

A bound covers every order of summation, fused or not, division or reciprocal: an author may choose those freely.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.special import erf

from refimpl import bounds
from refimpl.models.vectors import draw
from refimpl.models.vectors.case import Arrays, Expected, Family, Operands, Version
from refimpl.models.vectors.halves import to_bf16
from refimpl.nn.gelu import gelu
from refimpl.nn.layernorm import layernorm
from refimpl.nn.params import Norm
from refimpl.nn.softmax import softmax

F32, F64 = np.float32, np.float64
ROWS = {"N": ("x", 0), "D": ("x", 1)}


def _y(function: Callable[[Arrays], Any]) -> Version:
    """A wrong version, evaluated in f64 and rounded once: what is wrong is the formula."""

    def version(inputs: Arrays) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            return {"y": np.asarray(function({name: x.astype(F64) for name, x in inputs.items()})).astype(F32)}

    return version


# --- softmax ---------------------------------------------------------------------------------------------------------


def _softmaxes() -> list[Operands]:
    masked = draw.bell((3, 19), 100) * F32(4)
    masked[:, 11:] = np.finfo(F32).min
    return [
        Operands("one", "D = 1: exactly 1", {"x": np.array([[3.5]], F32)}),
        Operands("tails", "no multiple of 16; below 0 throughout", {"x": draw.bell((5, 37), 101) * F32(3) - F32(20)}),
        Operands("masked", "masked scores, the lowest f32, are 0", {"x": masked}),
        Operands("large", "scores whose exponentials overflow", {"x": draw.bell((4, 16), 102) * F32(40) + F32(300)}),
        Operands("bert", "scores of 128 tokens", {"x": draw.bell((2, 128), 103) * F32(2)}),
    ]


def _softmax_of(x: np.ndarray, shift: float = 1, base: Callable[..., Any] = np.exp, more: float = 0) -> np.ndarray:
    e = base(x - shift * x.max(-1, keepdims=True))
    return e / (e.sum(-1, keepdims=True) + more)


def _zeros_in_the_tail(i: Arrays) -> np.ndarray:
    x = np.pad(i["x"], ((0, 0), (0, -i["x"].shape[1] % 16)))
    return softmax(x)[:, : i["x"].shape[1]]


SOFTMAX = Family(
    "softmax",
    "y = exp(x - max x) / sum exp(x - max x) of each row.",
    ROWS,
    lambda i: {"y": Expected(softmax(i["x"].astype(F64)), bounds.softmax(i["x"]))},
    {
        "maximum_not_subtracted": lambda i: {"y": _softmax_unshifted(i["x"])},
        "exp_in_base_2": _y(lambda i: _softmax_of(i["x"], base=np.exp2)),
        "one_more_in_the_sum": _y(lambda i: _softmax_of(i["x"], more=1)),
        "tail_is_zeros": _y(_zeros_in_the_tail),
        "y_in_bf16": _y(lambda i: to_bf16(softmax(i["x"]))),
    },
    _softmaxes,
)


def _softmax_unshifted(x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return _softmax_of(x, shift=0)


# --- layer normalization ---------------------------------------------------------------------------------------------


def _norms(with_residual: bool = False) -> list[Operands]:
    def case(name: str, about: str, x: np.ndarray, eps: float, seed: int) -> Operands:
        d = x.shape[1]
        inputs = {"x": x, "weight": draw.bell((d,), seed) * F32(0.2) + F32(1), "bias": draw.bell((d,), seed + 1)}
        if with_residual:
            inputs["residual"] = draw.bell(x.shape, seed + 2) * np.abs(x).max(initial=0) * F32(0.5)
        return Operands(name, about, inputs | {"eps": draw.scalar(eps)})

    wide = draw.bell((3, 70), 110) * F32(3) + F32(2)
    return [
        case("tails", "no multiple of 16, a mean that is not 0", wide, 1e-12, 111),
        case("small", "a variance near eps", draw.bell((4, 33), 114) * F32(1e-3), 1e-6, 115),
        case("zeros", "a row of zeros is the bias", np.zeros((2, 17), F32), 1e-5, 118),
        case("bert", "one token of hidden size 384, with an outlier", _outlier(), 1e-12, 122),
    ]


def _outlier() -> np.ndarray:
    x = draw.bell((2, 384), 121)
    x[0, 300] = 20
    return x


def _norm(i: Arrays, x: np.ndarray, ddof: int = 0, variant: str = "") -> np.ndarray:
    c = x - x.mean(-1, keepdims=True)
    variance = (c * c).sum(-1, keepdims=True) / (x.shape[-1] - ddof)
    root = {"outside": np.sqrt(variance) + i["eps"], "forgotten": np.sqrt(variance), "no": variance + i["eps"]}
    return c / root.get(variant, np.sqrt(variance + i["eps"])) * i["weight"] + i["bias"]


def _parameters(i: Arrays) -> Norm:
    return Norm(i["weight"].astype(F64), i["bias"].astype(F64), float(i["eps"]))


def _exchanged(i: Arrays) -> np.ndarray:
    return layernorm(i["x"], Norm(i["bias"], i["weight"], float(i["eps"])))


def _layernorm(i: Arrays) -> dict[str, Expected]:
    p = _parameters(i)
    return {"y": Expected(layernorm(i["x"].astype(F64), p), bounds.layernorm(i["x"], p.weight, p.eps, p.bias))}


LAYERNORM = Family(
    "layernorm",
    "y = (x - mean) / sqrt(var + eps) * weight + bias of each row, var the mean of the squared deviations.",
    ROWS,
    _layernorm,
    {
        "unbiased_variance": _y(lambda i: _norm(i, i["x"], ddof=1)),
        "eps_outside_the_root": _y(lambda i: _norm(i, i["x"], variant="outside")),
        "eps_forgotten": _y(lambda i: _norm(i, i["x"], variant="forgotten")),
        "no_square_root": _y(lambda i: _norm(i, i["x"], variant="no")),
        "weight_and_bias_exchanged": _y(_exchanged),
    },
    _norms,
)


def _add_layernorm(i: Arrays) -> dict[str, Expected]:
    p, total = _parameters(i), i["x"].astype(F64) + i["residual"]
    return {"y": Expected(layernorm(total, p), bounds.add_layernorm(i["x"], i["residual"], p))}


ADD_LAYERNORM = Family(
    "add_layernorm",
    "y = layernorm(x + residual).",
    ROWS,
    _add_layernorm,
    {
        "residual_left_out": _y(lambda i: _norm(i, i["x"])),
        "residual_subtracted": _y(lambda i: _norm(i, i["x"] - i["residual"])),
        "residual_after_the_norm": _y(lambda i: _norm(i, i["x"]) + i["residual"]),
    },
    partial(_norms, with_residual=True),
)


# --- GELU ------------------------------------------------------------------------------------------------------------


def _gelus() -> list[Operands]:
    ends = np.array([[0.0, -0.0, 1e-30, -1e-30, 5.6, -5.6, 30, -30, 3e38, -3e38, 0.7, -0.7, 1, -1, 3, -3, 2]], F32)
    return [
        Operands("ends", "zero, tiny, where erf is 1, the largest", {"x": ends}),
        Operands("grid", "-8 ... 8 in steps of 1/16", {"x": np.arange(-128, 129).astype(F32)[None] / F32(16)}),
        Operands("bert", "a slice of an intermediate layer", {"x": draw.bell((3, 100), 130) * F32(2)}),
    ]


GELU = Family(
    "gelu",
    "y = x / 2 (1 + erf(x / sqrt 2)), not the tanh approximation.",
    ROWS,
    lambda i: {"y": Expected(gelu(i["x"].astype(F64)), bounds.gelu(i["x"]))},
    {
        "tanh_approximation": _y(
            lambda i: i["x"] / 2 * (1 + np.tanh(0.7978845608 * (i["x"] + 0.044715 * i["x"] ** 3)))
        ),
        "sigmoid_approximation": _y(lambda i: i["x"] / (1 + np.exp(-1.702 * i["x"]))),
        "erf_of_x": _y(lambda i: i["x"] / 2 * (1 + erf(i["x"]))),
        "y_in_bf16": _y(lambda i: to_bf16(gelu(i["x"]))),
    },
    _gelus,
)


FAMILIES = [SOFTMAX, LAYERNORM, ADD_LAYERNORM, GELU]
