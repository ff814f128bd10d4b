"""Fine-tuning from a Hugging Face directory to another, with everything checked before the work begins.

While it runs, ``OUTPUT.training`` beside the output is the checkpoint; it is removed when the output is written.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refimpl import check
from refimpl.kernels.training.table import training
from refimpl.models.checkpoint import FILE
from refimpl.models.compress import Dense
from refimpl.models.config import read_config
from refimpl.models.directory import save_directory
from refimpl.models.files import check_folder, remove_parts
from refimpl.models.options import check_batches, check_counts, check_seed, check_threads
from refimpl.models.terminal import say
from refimpl.models.tokenizer import Tokenizer
from refimpl.models.training import checkpoint, interrupt
from refimpl.models.training.batches import Purpose, stream
from refimpl.models.training.checkpoint import Run, State
from refimpl.models.training.evaluation import HEADS
from refimpl.models.training.loop import Job, Settings, updates
from refimpl.models.training.new_heads import load_for
from refimpl.models.training.parameters import Parameters, named, with_parameters
from refimpl.models.training.run import Keeping, Stopped, run_training
from refimpl.models.training.settings import by_kernels, identity
from refimpl.models.training.show import Bar
from refimpl.models.training.task import How, Task, job
from refimpl.models.training.tasks import TASKS, Source
from refimpl.nn.tape import Tape

SUFFIX = ".training"
RECORD = "training.json"
"""What the output says of its own making."""


@dataclass(frozen=True)
class Plan:
    """The settings of the command line, in its words."""

    task: str
    epochs: int = 3
    batch: int = 32
    learning_rate: float = 3e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    dropout: float = 0.1
    accumulate: int = 1
    seed: int = 0
    limit: int | None = None
    threads: int = 1
    save_every: int = 100


def check_plan(plan: Plan) -> None:
    """Raise ValueError naming the option that cannot be."""
    if plan.task not in TASKS:
        raise ValueError(f"--task is {plan.task!r:.80}; need {', '.join(TASKS)}")
    check_counts(epochs=plan.epochs, accumulate=plan.accumulate, save_every=plan.save_every, limit=plan.limit)
    check_batches([plan.batch])
    check_threads(plan.threads)
    check_seed(plan.seed)
    check.fraction("--warmup", plan.warmup)
    if not 0 <= plan.dropout < 1:
        raise ValueError(f"--dropout is {plan.dropout:g}; need 0 to below 1")
    if not 0 < plan.learning_rate <= 1:
        raise ValueError(f"--learning-rate is {plan.learning_rate:g}; need more than 0 and at most 1")
    if not 0 <= plan.weight_decay <= 1:
        raise ValueError(f"--weight-decay is {plan.weight_decay:g}; need 0 to 1")


def fine_tune(model: Path, data: Path, output: Path, plan: Plan, resume: bool) -> dict[str, Any]:
    """Train, write ``output``, and report: {"output", "updates", "run", "history"}.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        what was given cannot be used, or the disk is full
    Stopped, Diverged
        as ``run_training``
    """
    from threadpoolctl import threadpool_limits

    check_plan(plan)
    kept = output.resolve().with_name(output.resolve().name + SUFFIX)
    replaceable = _check_output(output, kept, resume)
    config = read_config(model)
    tokenizer = Tokenizer.load(model, config)
    dense = Dense(load_for(model, *HEADS[plan.task], stream(plan.seed, Purpose.HEAD)), tokenizer)
    with Bar() as bar, threadpool_limits(plan.threads):
        forwards, backwards = training(plan.threads)
        task = TASKS[plan.task](Source(data, tokenizer, plan.limit, forwards, bar.evaluated))
        work = job(task, dense.model, How(plan.batch, plan.seed, plan.dropout, lambda: Tape(forwards, backwards)))
        run = _identity(dense, task, plan)
        state = _state(named(dense.model), run, kept if resume else None)
        keeping = Keeping(kept, run, plan.save_every)
        total = updates(len(work.batches(0)), plan.epochs, plan.accumulate)
        settings = by_kernels(plan, total, plan.seed, plan.threads)
        state = _train(work, settings, state, keeping, bar)
    report = {"output": str(output), "updates": state.step, "run": run, "history": list(state.history)}
    text = json.dumps({key: report[key] for key in ("updates", "run", "history")}, indent=2) + "\n"
    trained = Dense(with_parameters(dense.model, state.parameters), tokenizer)
    save_directory(trained, output, {RECORD: text}, replaceable)
    kept.unlink(missing_ok=True)
    return report


def _identity(dense: Dense, task: Task, plan: Plan) -> Run:
    """What must be the same for a run to go on, apart from how often it saves."""
    run: Run = {key: value for key, value in asdict(plan).items() if key != "save_every"}
    return run | identity(dense, task)


def _state(parameters: Parameters, run: Run, kept: Path | None) -> State:
    """The first one, or the one of the checkpoint that is to be resumed, if it is there."""
    state = checkpoint.begin(parameters)
    if kept is not None:
        remove_parts(kept)
    if kept is not None and kept.exists():
        state = checkpoint.load(kept, run, state)
        say("note:", f"going on after update {state.step}", "yellow")
    return state


def _train(job: Job, settings: Settings, state: State, keeping: Keeping, bar: Bar) -> State:
    each = len(job.batches(0))
    bar.begin(updates(each, settings.epochs, settings.accumulate), state.step)
    try:
        with interrupt.noted() as stop:
            bar.stop = stop
            return run_training(job, settings, state, keeping, bar.report, stop)
    except Stopped as stopped:
        raise Stopped(f"{stopped}; the same command with --resume goes on") from None


def _check_output(output: Path, kept: Path, resume: bool) -> Callable[[Path], bool]:
    """Whether a folder may give way to the output: one that this very run has written, before it could clean up."""
    check_folder(output)
    mine = kept.exists() and (output / FILE).exists() and (output / RECORD).exists()
    if kept.exists() and not resume:
        raise ValueError(f"{kept} is the checkpoint of an interrupted run; --resume to go on, or remove it")
    if resume and not kept.exists() and (output / RECORD).exists():
        raise ValueError(f"{output} is there, and no {kept.name}: the run is finished; nothing is left to resume")
    if output.exists() and not mine and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder; name another output")
    return lambda path: mine
