"""What a session computes on its way, by tap name: for the judge, and for whoever looks for the first difference.

All tokens go through all layers here; the head's taps, and the output, are those of the plan that a session runs.
Of the taps of ``models.bert.forward`` those that the plan has: sums that are fused into a product are not there, nor,
with INT8 attention, q, k and v in f32, of which only the codes exist ("layer.0.q_codes").
"""

import numpy as np

from refimpl.models.runtime.lines import FIRST, HIDDEN, OF_ROWS, OUTPUTS, rows_of
from refimpl.models.runtime.session import Ready, Session, fill
from refimpl.models.runtime.steps import Step
from refimpl.models.runtime.weights import Weights
from refimpl.models.runtime.widths import ORDER
from refimpl.nn import Recorder
from refimpl.nn.attention import split_heads

QKV = "qkv"


def record(session: Session, ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> dict[str, np.ndarray]:
    """Tap -> f32 or u8 (B, T, channels), codes of q, k and v (B, H, T, E); 0 where a token is padding.

    The arguments are those of the session.
    """
    taps: dict[str, np.ndarray] = {}

    def look(step: Step, ready: Ready) -> None:
        for name in step.writes:
            value = _tokens(ready, name).reshape(*ids.shape, -1)
            for tap, part in _named(name, value, session):
                taps[tap] = part

    session.check(ids, mask, types)
    with session.lock:
        for shape in dict.fromkeys((session.shape(mask)._replace(picked=0), session.shape(mask))):
            ready = session.ready(shape)
            fill(ready, ids, mask, types)
            session.run(ready, None if shape.picked else look)
        head = Recorder()
        taps["output"] = session.head(ready, mask, head)
    return taps | head.values


def _tokens(ready: Ready, name: str) -> np.ndarray:
    """A tensor of panels as rows of tokens (R, channels); tensors of rows as they are."""
    array, shape = ready.arrays[name], ready.plan.shape
    if name in OF_ROWS:
        rows = array.reshape(rows_of(shape) if name == HIDDEN else shape.panels * shape.width, -1)
        return rows.copy() if name == HIDDEN else _pick(rows, ready)
    panels = array.reshape(shape.panels, -1, shape.width)
    if array.dtype == np.float32:
        panels = panels[:, :, np.argsort(ORDER[shape.width])]
    return _pick(panels.swapaxes(1, 2).reshape(shape.panels * shape.width, -1), ready)


def _pick(rows: np.ndarray, ready: Ready) -> np.ndarray:
    sources = ready.arrays["sources"]
    return np.where(sources[:, None] < 0, rows.dtype.type(0), rows[sources])


def _named(name: str, value: np.ndarray, session: Session) -> list[tuple[str, np.ndarray]]:
    """The taps that a tensor holds, with their values."""
    taps, weights = taps_of(name, session.weights), session.weights
    if not name.endswith(QKV):
        return [(tap, value) for tap in taps]
    parts = np.split(value, 3, -1)
    if weights.integer_attention:
        parts = [split_heads(part, part.shape[-1] // weights.config.head_size) for part in parts]
    return list(zip(taps, parts, strict=True))


def taps_of(name: str, weights: Weights) -> list[str]:
    """The names of the taps that a tensor holds."""
    if name == OUTPUTS:
        return ["output"]
    prefix, _, last = name.rpartition(".")
    if last == QKV:
        return [f"{prefix}.{part}{'_codes' * weights.integer_attention}" for part in "qkv"]
    if last == "codes" and prefix.endswith(("embeddings", "output_norm")):
        layer = int(prefix.split(".")[1]) + 1 if "." in prefix else 0
        return [f"layer.{layer}.{part}.codes" for part in "qkv"] if layer < weights.config.layers else []
    if last == "codes" and prefix.endswith("attention_norm"):
        return [prefix.replace("attention_norm", "intermediate") + ".codes"]
    fused = name in OF_ROWS or name.endswith(FIRST) or last in ("attention_sum", "output_sum")
    return [] if fused else [name]
