"""Operators that move numbers and never compute with them: shapes, slices, lookups, constants.

Results are exact copies, so errors move as the numbers do: an error is the same operator applied to the errors.
"""

from collections.abc import Sequence

import numpy as np

from refimpl.models.oracle.operator import Approx, Call, Operator, Value, affordable, axes_of, ints


def _reshape(call: Call, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    wanted = ints(shape) or []
    if not call.get("allowzero", 0):
        if any(n == 0 and i >= x.ndim for i, n in enumerate(wanted)):
            raise ValueError(f"shape is {wanted}: a 0 copies a length that {x.shape} lacks")
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    if any(n < -1 for n in wanted) or wanted.count(-1) > 1:
        raise ValueError(f"shape is {wanted}; need lengths, with one -1 at most")
    return x.reshape(wanted)


def _transpose(call: Call, x: np.ndarray) -> np.ndarray:
    perm = call.get("perm", list(range(x.ndim))[::-1])
    if sorted(perm) != list(range(x.ndim)):
        raise ValueError(f"perm is {perm}; need an order of {x.ndim} axes")
    return x.transpose(perm)


def _axes(call: Call, axes: np.ndarray | None, default: list[int] | None = None) -> list[int] | None:
    """From the input since opset 13, before that an attribute."""
    return ints(axes) if axes is not None else call.get("axes", default)


def _unsqueeze(call: Call, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    wanted = _axes(call, axes) or []
    return np.expand_dims(x, axes_of(wanted, x.ndim + len(wanted)))


def _squeeze(call: Call, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    wanted = _axes(call, axes)
    return np.squeeze(x, None if wanted is None else axes_of(wanted, x.ndim))


def _flatten(call: Call, x: np.ndarray) -> np.ndarray:
    axis = call.get("axis", 1)
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"axis is {axis}; need -{x.ndim} to {x.ndim}")
    axis = axis + x.ndim if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return x.reshape(rows, int(np.prod(x.shape[axis:], dtype=np.int64)))


def _concat(call: Call, *xs: np.ndarray) -> np.ndarray:
    if len({x.dtype for x in xs}) > 1:
        raise TypeError("the inputs have several dtypes; need one")
    affordable([sum(x.size for x in xs)], xs[0].itemsize)  # a chain of them doubles what it is given each time
    return np.concatenate(xs, call.get("axis"))


def _split(call: Call, x: np.ndarray, sizes: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    (axis,) = axes_of([call.get("axis", 0)], x.ndim)
    parts = len(call.node.outputs)
    wanted = ints(sizes) if sizes is not None else call.get("split", None)
    if wanted is None:
        each = -(-x.shape[axis] // parts)
        wanted = [each] * (parts - 1) + [x.shape[axis] - each * (parts - 1)]
    if len(wanted) != parts or sum(wanted) != x.shape[axis] or min(wanted) < 0:
        raise ValueError(f"split is {wanted}; need {parts} lengths that add up to {x.shape[axis]}")
    return tuple(np.split(x, np.cumsum(wanted)[:-1], axis))


def _slice(call: Call, x: np.ndarray, *limits: np.ndarray | None) -> np.ndarray:
    if call.opset < 10:
        starts, ends, axes = call.get("starts"), call.get("ends"), call.get("axes", None)
        steps = None
    else:
        starts, ends, axes, steps = (ints(limit) for limit in (*limits, None, None, None, None)[:4])
    starts, ends = starts or [], ends or []
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ValueError(f"starts, ends, axes and steps are {starts}, {ends}, {axes}, {steps}; need as many of each")
    cuts = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes_of(axes, x.ndim), starts, ends, steps, strict=True):
        below = step < 0 and end < -x.shape[axis]  # Python would count from the end
        cuts[axis] = slice(start, None if below else end, step)
    return x[tuple(cuts)]


def _gather(call: Call, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    (axis,) = axes_of([call.get("axis", 0)], x.ndim)
    affordable([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])
    return np.take(x, _inside(indices, x.shape[axis]), axis)


def _inside(indices: np.ndarray, length: int) -> np.ndarray:
    """Raise unless indices are integers from -length to length - 1."""
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices have dtype {indices.dtype}; need an integer dtype")
    if indices.size and not -length <= int(indices.min()) <= int(indices.max()) < length:
        outside = indices[(indices < -length) | (indices >= length)]
        raise ValueError(f"the index {outside[0]} is outside -{length} to {length - 1}")
    return indices


def _gather_elements(call: Call, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    (axis,) = axes_of([call.get("axis", 0)], x.ndim)
    return np.take_along_axis(x, _inside(indices, x.shape[axis]), axis)


def _gather_nd(call: Call, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    batch = call.get("batch_dims", 0)
    depth = indices.shape[-1]
    if not 0 <= batch < indices.ndim or batch + depth > x.ndim or x.shape[:batch] != indices.shape[:batch]:
        raise ValueError(f"data has shape {x.shape}, indices {indices.shape}, batch_dims is {batch}: they do not match")
    affordable([*indices.shape[:-1], *x.shape[batch + depth :]])
    for i in range(depth):
        _inside(indices[..., i], x.shape[batch + i])
    grids = np.ix_(*(np.arange(n) for n in indices.shape[:batch])) if batch else ()
    place = tuple(grid.reshape(grid.shape + (1,) * (indices.ndim - 1 - batch)) for grid in grids)
    return x[(*place, *np.moveaxis(indices, -1, 0))]


def _scatter_nd(call: Call, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    if call.get("reduction", "none") != "none":
        raise ValueError("reduction is supported as none only")
    for i in range(indices.shape[-1]):
        _inside(indices[..., i], x.shape[i])
    made = x.copy()
    made[tuple(np.moveaxis(indices, -1, 0))] = updates
    return made


def _shape(call: Call, x: np.ndarray) -> np.ndarray:
    cut = slice(call.get("start", 0), call.get("end", None))
    return np.array(x.shape[cut], np.int64)


def _filled(shape: Sequence[int], value: np.ndarray) -> np.ndarray:
    affordable(shape, value.itemsize)
    return np.full(shape, value.reshape(()))


def _constant_of_shape(call: Call, shape: np.ndarray) -> np.ndarray:
    value = call.get("value", np.zeros(1, np.float32))
    return _filled(ints(shape) or [], value.astype(call.real(value.dtype)))


def _expand(call: Call, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    wanted = np.broadcast_shapes(x.shape, tuple(ints(shape) or []))
    affordable(wanted, x.itemsize)
    return np.broadcast_to(x, wanted)


def _constant(call: Call) -> np.ndarray:
    """One of value, value_int, value_ints, value_float, value_floats."""
    attributes = call.node.attributes
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if len(attributes) != 1 or not (kinds.keys() | {"value"}) >= attributes.keys():
        raise ValueError(f"the attributes are {sorted(attributes)}; need one numeric value")
    ((name, value),) = attributes.items()
    array = value if isinstance(value, np.ndarray) else np.array(value, kinds.get(name))
    return array.astype(call.real(array.dtype))


def _range(call: Call, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
    first, last, step = (x.reshape(()) for x in (start, limit, delta))
    if not step or not np.isfinite([first, last, step]).all():
        raise ValueError(f"start, limit and delta are {first}, {last}, {step}; need a delta other than 0")
    count = max(0, int(np.ceil((float(last) - float(first)) / float(step))))
    affordable([count], first.itemsize)
    return first + np.arange(count).astype(first.dtype) * step


def _tile(call: Call, x: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    times = ints(repeats) or []
    if len(times) != x.ndim:
        raise ValueError(f"repeats are {times}; need {x.ndim}")
    affordable([n * r for n, r in zip(x.shape, times, strict=True)], x.itemsize)
    return np.tile(x, times)


def _pad(call: Call, x: np.ndarray, *more: np.ndarray | None) -> np.ndarray:
    pads, value, axes = (*more, None, None, None)[:3]
    widths: list[int] = (ints(pads) if pads is not None else call.get("pads")) or []
    named = axes_of(list(range(x.ndim)) if axes is None else ints(axes) or [], x.ndim)
    if len(widths) != 2 * len(named):
        raise ValueError(f"pads are {widths}; need {2 * len(named)}")
    mode = call.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge") or (mode != "constant" and min(widths) < 0):
        raise ValueError(f"mode is {mode!r} with pads {widths}; need constant, or reflect or edge with pads >= 0")
    both = [(0, 0)] * x.ndim
    for i, axis in enumerate(named):
        both[axis] = (widths[i], widths[i + len(named)])
    affordable([max(0, n + before + after) for n, (before, after) in zip(x.shape, both, strict=True)], x.itemsize)
    x = x[tuple(slice(max(0, -before), n - max(0, -after)) for n, (before, after) in zip(x.shape, both, strict=True))]
    grow = [(max(0, before), max(0, after)) for before, after in both]
    if mode != "constant":
        return np.pad(x, grow, mode)
    fill = call.get("value", 0.0) if value is None else value.reshape(()).item()
    return np.pad(x, grow, constant_values=np.asarray(fill, x.dtype))


def _trilu(call: Call, x: np.ndarray, k: np.ndarray | None = None) -> np.ndarray:
    diagonal = 0 if k is None else int(k.reshape(()))
    return np.triu(x, diagonal) if call.get("upper", 1) else np.tril(x, diagonal)


def _one_hot(call: Call, indices: np.ndarray, depth: np.ndarray, values: np.ndarray) -> np.ndarray:
    size = int(depth.reshape(()))
    (axis,) = axes_of([call.get("axis", -1)], indices.ndim + 1)
    affordable([*indices.shape, size], values.itemsize)
    inside = (indices >= -size) & (indices < size)
    hot = np.where(inside, np.mod(indices, size), -1).astype(np.int64)
    lines = np.arange(size).reshape((-1,) + (1,) * (indices.ndim - axis))
    return np.where(np.expand_dims(hot, axis) == lines, values[1], values[0])


def _dropout(call: Call, x: np.ndarray, *_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In inference: nothing is dropped."""
    if len(_) > 1 and _[1] is not None and _[1].any():
        raise ValueError("training_mode is true; need inference")
    return x, np.ones(x.shape, np.bool_)


def _non_zero(call: Call, x: np.ndarray) -> np.ndarray:
    return np.array(np.nonzero(x), np.int64)


MOVES: dict[str, Value] = {
    "Reshape": _reshape, "Transpose": _transpose, "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Flatten": _flatten,
    "Concat": _concat, "Split": _split, "Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements,
    "GatherND": _gather_nd, "ScatterND": _scatter_nd, "ConstantOfShape": _constant_of_shape,
    "Expand": _expand, "Constant": _constant, "Range": _range, "Tile": _tile, "Pad": _pad, "Trilu": _trilu,
    "OneHot": _one_hot, "Identity": lambda call, x: x, "Dropout": _dropout, "NonZero": _non_zero,
}  # fmt: skip


def _shape_only(call: Call, xs: Sequence[Approx | None], y: np.ndarray) -> np.ndarray:
    """What depends on shapes alone is known, however uncertain the numbers are."""
    return np.zeros(())


OPERATORS = {("", name): Operator(value) for name, value in MOVES.items()} | {
    ("", "Shape"): Operator(_shape, _shape_only),
    ("", "Size"): Operator(lambda call, x: np.array(x.size, np.int64), _shape_only),
}
