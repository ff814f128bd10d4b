"""An interrupted training as one file, from which it goes on as if nothing had happened.

    metadata    refimpl_training    {"version": 1, "step": ..., "run": {...}, ..., "sha256": "..."}
    tensors     parameter.NAME, first.NAME, second.NAME, extra.NAME

``run`` is what identifies the run (settings, digests of data and starting model): a checkpoint of another run is
refused. Random numbers are functions of the seed, in ``run``, and the step (``batches.stream``), so that no generator
has a state to keep. The file is written beside the old one and then takes its place: there is always a whole one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError

from refimpl.models import sealed
from refimpl.models.training.optimizer import Moments, start
from refimpl.models.training.parameters import Parameters

KIND = sealed.Kind(
    "refimpl_training", 1, "checkpoint of a training", "a checkpoint of a training", "start without --resume"
)
GROUPS = ("parameter", "first", "second", "extra")
Run = dict[str, str | int | float | bool | None]


class State(NamedTuple):
    """step: updates done; extra: arrays that change beside the parameters, such as masks; losses: their sum in this
    epoch; history: one row an epoch, with its mean loss and metrics."""

    step: int
    parameters: Parameters
    moments: Moments
    extra: Parameters
    losses: float = 0.0
    history: tuple[dict[str, float], ...] = ()


def begin(parameters: Mapping[str, np.ndarray], extra: Mapping[str, np.ndarray] | None = None) -> State:
    """Before the first update; the arrays are copies, which training writes to."""
    own = {name: np.array(array, order="C") for name, array in parameters.items()}
    return State(0, own, start(own), {name: np.array(array) for name, array in (extra or {}).items()})


def save(state: State, run: Run, path: Path) -> None:
    """Write the file. OSError if that fails; then a checkpoint that was there is there still."""
    groups = (state.parameters, *state.moments, state.extra)
    tensors = {f"{group}.{name}": x for group, own in zip(GROUPS, groups, strict=True) for name, x in own.items()}
    told = {"step": state.step, "losses": state.losses, "history": list(state.history)}
    header = {"version": KIND.version, **told, "run": run}
    header["sha256"] = sealed.digest(header, tensors)
    try:
        sealed.save(tensors, path, {KIND.key: json.dumps(header)})
    except (SafetensorError, OSError) as error:
        kept = "the checkpoint before it stays" if Path(path).exists() else "there is none before it"
        raise OSError(f"{path}: the checkpoint of update {state.step} cannot be written: {error}; {kept}") from None


def load(path: Path, run: Run, like: State) -> State:
    """The state in a file; its arrays are fresh.

    Parameters
    ----------
    run : what identifies the run that is to go on
    like : a state of that run, for names, dtypes and shapes

    Raises
    ------
    FileNotFoundError
        there is no such file
    ValueError
        it is damaged, no checkpoint, or of another run
    """
    header, _, tensors = sealed.read(Path(path), KIND)
    told = header.pop("sha256", None)
    if told != sealed.digest(header, tensors):
        raise ValueError(f"{path} is damaged: its digest is not that of its contents")
    _check_header(header, str(path))
    check_run(header["run"], run, str(path))
    groups: dict[str, Parameters] = {group: {} for group in GROUPS}
    for name, array in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = np.array(array)
    parameters, first, second, extra = (groups[group] for group in GROUPS)
    _check_like(parameters, like.parameters, f"{path}: parameters")
    _check_like(extra, like.extra, f"{path}: extra arrays")
    for moments in (first, second):
        _check_like(moments, like.parameters, f"{path}: moments")
    step, losses, history = (header[key] for key in ("step", "losses", "history"))
    return State(step, parameters, Moments(first, second), extra, losses, tuple(history))


def _check_header(header: dict[str, Any], where: str) -> None:
    """The digest says that the file is as it was written, not by whom."""
    kinds = {"step": int, "losses": float, "history": list, "run": dict}
    for key, kind in kinds.items():
        if type(header.get(key)) is not kind:
            raise ValueError(f"{where} has {key} {header.get(key)!r:.80}; need {kind.__name__}")
    if header["step"] < 0:
        raise ValueError(f"{where} has step {header['step']}; need 0 or more")


def check_run(found: Any, need: Run, where: str) -> None:
    """Raise ValueError naming the first setting in which the two runs differ."""
    for key in sorted({*found, *need}):
        if found.get(key) != need.get(key):
            raise ValueError(
                f"{where} is of another run: its {key} is {found.get(key)!r:.80}, this one's {need.get(key)!r:.80}; "
                "give the same, or another output"
            )


def _check_like(found: Parameters, need: Parameters, where: str) -> None:
    shapes, wanted = ({name: (x.shape, x.dtype) for name, x in arrays.items()} for arrays in (found, need))
    for name in sorted(shapes.keys() | wanted.keys()):
        if shapes.get(name) != wanted.get(name):
            raise ValueError(f"{where} have {name} as {shapes.get(name)}; need {wanted.get(name)}")
