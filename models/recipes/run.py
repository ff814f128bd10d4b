"""A recipe from beginning to end: check, baseline, teacher, stages, what is written, the report.

While it runs, ``OUTPUT.stages`` beside the output holds the checkpoint of each stage, and of what comes before them; it
is removed when the output is written. Interrupted, the same command with --resume finds the finished stages there and
goes on in the one that was interrupted.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

from refimpl.kernels.training.linears import linears as kinds_of
from refimpl.kernels.training.table import training
from refimpl.models import sealed
from refimpl.models.compress import Dense
from refimpl.models.config import read_config
from refimpl.models.engines.isolated import Conditions
from refimpl.models.files import atomic_folder, check_folder
from refimpl.models.recipes.agreement import compare_engines
from refimpl.models.recipes.artifacts import write_artifacts
from refimpl.models.recipes.beginning import begin
from refimpl.models.recipes.checking import check_stages
from refimpl.models.recipes.given import load_models
from refimpl.models.recipes.options import Options, check_options
from refimpl.models.recipes.page import page
from refimpl.models.recipes.recipe import Recipe
from refimpl.models.recipes.report import about, anatomy, stage_row
from refimpl.models.recipes.setting import Setting, Work, kept_of, work_on
from refimpl.models.recipes.stages import named_in_errors, run_stage
from refimpl.models.runner import runner
from refimpl.models.terminal import say
from refimpl.models.training import interrupt
from refimpl.models.training.evaluation import ENDINGS, MEASURES, Measure, find, fits
from refimpl.models.training.parameters import named
from refimpl.models.training.run import Interrupted, Stopped
from refimpl.models.training.settings import identity
from refimpl.models.training.show import Bar
from refimpl.models.training.tasks import TASKS, Source
from refimpl.nn import NO_TAP, Tap
from refimpl.nn.tape import Tape
from refimpl.prune.sparsity_table import to_csv
from refimpl.quant.fake import width_nncf, width_of_step

SUFFIX = ".stages"
REPORT, PAGE, TABLE = "report.json", "report.html", "structured_sparsity.csv"


def compress_by(
    recipe: Recipe,
    model: Path,
    data: Path,
    output: Path,
    options: Options,
    resume: bool = False,
    given: str | None = None,
) -> dict[str, Any]:
    """Run the recipe, write ``output``, and return the report. given: the recipe as a command has it, if not by name.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        what was given cannot be used, or the disk is full
    Stopped, Diverged
        as ``run_training``
    """
    from threadpoolctl import threadpool_limits

    check_options(options)
    for stem in ("train", "dev"):
        find(data, stem, ENDINGS[options.task])
    dense, teacher = load_models(recipe, model, options)
    folder = output.resolve().with_name(output.resolve().name + SUFFIX)
    _check_output(output, folder, resume)
    begun = perf_counter()
    with _checkpoints(folder), Bar() as bar, threadpool_limits(options.threads), interrupt.noted() as stop:
        bar.stop = stop
        setting = make_setting(dense, teacher, data, options, bar, folder)
        check_stages(recipe, dense, teacher, len(setting.task.lengths))
        known = dense if teacher is None or fits(read_config(model), options.task) else teacher  # not a head drawn anew
        setting, baseline = begin(setting, known.model)
        report = about(recipe, given or recipe.name, model, data, output, options) | {"baseline": baseline}
        stages, work = _stages(setting, recipe, dense, resume)
        report |= {"stages": stages} | anatomy(dense, work)
        with atomic_folder(output, lambda path: False) as temporary:
            report["sizes"] = write_artifacts(temporary, dense.model.config, work.dense, work.quantized)
            if work.table:
                (temporary / TABLE).write_text(to_csv(work.table), "utf-8")
            report["engines"] = compare_engines(
                temporary, options.task, data, options.limit, Conditions(threads=options.threads), bar.telling
            )
            stages[-1]["metrics"] = report["engines"][0]["metrics"]
            report["seconds"] = None if resume else round(perf_counter() - begun, 1)
            (temporary / REPORT).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
            (temporary / PAGE).write_text(page(report), "utf-8")
        shutil.rmtree(folder)
    return report


@contextmanager
def _checkpoints(folder: Path) -> Iterator[None]:
    """Their folder, which does not stay if it is empty. What interrupts says whether there is something to go on from.

    Between trainings nothing is saved: what is interrupted there begins anew, after the stages that are finished.
    """
    folder.mkdir(exist_ok=True)
    try:
        yield
    except Stopped as stopped:
        raise Stopped(f"{stopped}; the same command with --resume goes on") from None
    except Interrupted:
        kept = any(folder.iterdir())
        goes_on = f"saved in {folder}; the same command with --resume goes on"
        raise Stopped(f"stopped between trainings; {goes_on if kept else 'nothing is saved'}") from None
    finally:
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def make_setting(dense: Dense, teacher: Dense | None, data: Path, options: Options, bar: Bar, folder: Path) -> Setting:
    """What the stages of a run share, but for what the teacher says: see ``begin``.

    folder : of the checkpoints; the caller makes it
    """
    forwards, backwards = training(options.threads)
    by_width = {width: kinds_of(options.threads, width) for width in (width_nncf, width_of_step)}
    kinds = by_width[width_nncf]

    def linear(x: Any, p: Any, tap: Tap = NO_TAP) -> Any:
        return kinds[type(p)].forward(x, p)[0] if type(p) in kinds else forwards.linear(x, p, tap)

    source = Source(data, dense.tokenizer, options.limit, forwards._replace(linear=linear), bar.evaluated)
    task = TASKS[options.task](source)
    run = identity(dense, task) | {"task": options.task, "seed": options.seed, "limit": options.limit}
    if teacher is not None:
        run["teacher"] = sealed.digest([], named(teacher.model))

    @cache  # the rows are read when a stage asks for them, and once
    def ask() -> Measure:
        return MEASURES[options.task](data, dense.tokenizer, options.limit)

    return Setting(
        task=task,
        logits=None,
        teacher=None if teacher is None else teacher.model,
        ops=forwards,
        folder=folder,
        identity=run,
        new_tape=lambda width=width_nncf: Tape(forwards, backwards, by_width[width]),
        measure=lambda loaded: ask()(runner(loaded, options.threads), bar.evaluated),
        bar=bar,
        seed=options.seed,
        threads=options.threads,
        save_every=options.save_every,
    )


def _stages(setting: Setting, recipe: Recipe, dense: Dense, resume: bool) -> tuple[list[dict[str, Any]], Work]:
    """The report's rows, and what is left. Seconds of a stage that was interrupted are not known: None."""
    work, rows = work_on(dense), []
    for number, stage in enumerate(recipe.stages, 1):
        begun, goes_on = perf_counter(), resume and kept_of(setting, number).exists()
        with named_in_errors(number, stage):
            done = run_stage(setting, number, stage, work)
        work = done.work
        seconds = None if goes_on else round(perf_counter() - begun, 1)
        rows.append({"name": stage.do, "seconds": seconds} | stage_row(done))
    return rows, work


def _check_output(output: Path, folder: Path, resume: bool) -> None:
    check_folder(output)
    if (output / REPORT).exists():
        left = (
            f"; {folder.name} is left over, remove it" if folder.exists() else "; name another output for another run"
        )
        raise ValueError(f"{output} is there: the run is finished, see {output / PAGE}{left}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder; name another output")
    if folder.exists() and not resume:
        raise ValueError(f"{folder} has the checkpoints of an interrupted run; --resume to go on, or remove it")
    if resume and not folder.exists():
        say("note:", f"there is no {folder.name}: nothing to resume, a new run begins", "yellow")
