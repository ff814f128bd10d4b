"""A recipe from beginning to end: check, baseline, teacher, stages, what is written, the report.

While it runs, ``OUTPUT.stages`` beside the output holds the checkpoint of each stage; it is removed when the output is
written. Interrupted, the same command with --resume finds the finished stages there and goes on in the one that was
interrupted.
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
from refimpl.models.recipes.artifacts import HUGGING_FACE, write_artifacts
from refimpl.models.recipes.distilling import teach
from refimpl.models.recipes.kinds import Training
from refimpl.models.recipes.options import Options, check_options
from refimpl.models.recipes.page import page
from refimpl.models.recipes.recipe import Recipe
from refimpl.models.recipes.report import about, anatomy, stage_row
from refimpl.models.recipes.setting import Setting, Work, kept_of
from refimpl.models.recipes.stages import run_stage
from refimpl.models.runner import runner
from refimpl.models.terminal import say
from refimpl.models.tokenizer import Tokenizer
from refimpl.models.training import interrupt
from refimpl.models.training.batches import Purpose, stream
from refimpl.models.training.evaluation import ENDINGS, HEADS, MEASURES, Measure, find, fits, head_words, needed
from refimpl.models.training.new_heads import load_for
from refimpl.models.training.parameters import named
from refimpl.models.training.run import Interrupted, Stopped
from refimpl.models.training.settings import identity
from refimpl.models.training.show import Bar
from refimpl.models.training.tasks import TASKS, Source
from refimpl.nn import NO_TAP, Tap
from refimpl.nn.tape import Tape
from refimpl.quant.fake import width_nncf, width_of_step

SUFFIX = ".stages"
REPORT, PAGE = "report.json", "report.html"


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
    dense, teacher = _models(recipe, model, options)
    folder = output.resolve().with_name(output.resolve().name + SUFFIX)
    _check_output(output, folder, resume)
    begun = perf_counter()
    with _checkpoints(folder), Bar() as bar, threadpool_limits(options.threads), interrupt.noted() as stop:
        bar.stop = stop
        setting = make_setting(dense, teacher, data, options, bar, folder)
        report = about(recipe, given or recipe.name, model, data, output, options)
        report["baseline"] = _baseline(setting, dense if teacher is None or _fits(model, options) else teacher)
        stages, work = _stages(setting, recipe, dense, resume)
        report |= {"stages": stages} | anatomy(dense, work)
        with atomic_folder(output, lambda path: False) as temporary:
            report["sizes"] = write_artifacts(temporary, dense.model.config, work.dense, work.quantized)
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


def _models(recipe: Recipe, model: Path, options: Options) -> tuple[Dense, Dense | None]:
    """The model to be compressed, and the teacher if there is need of one."""
    trains = any(isinstance(stage, Training) for stage in recipe.stages)
    dense = _load(model, options, not trains or (recipe.distils and options.teacher is None))
    if not recipe.distils:
        if options.teacher is not None:
            raise ValueError(f"the recipe {recipe.name} distils in no stage; leave --teacher out")
        return dense, None
    if options.teacher is None:
        return dense, dense
    teacher = _load(options.teacher, options, True)
    if teacher.tokenizer.text != dense.tokenizer.text:
        raise ValueError(
            f"{options.teacher} has another tokenizer than {model}; need a teacher that reads the same ids"
        )
    return dense, teacher


def _load(path: Path, options: Options, as_it_is: bool) -> Dense:
    """as_it_is: its head is not to be trained, or before that it teaches."""
    head, labels = HEADS[options.task]
    if path.is_file():
        raise ValueError(
            f"{path} is a file; need a Hugging Face directory, in f32: a recipe leaves one, {HUGGING_FACE}/"
        )
    config = read_config(path)
    if as_it_is and not fits(config, options.task):
        found = head_words(config.head, len(config.labels))
        raise ValueError(f"{path} is for {found}; need one for {needed(options.task)}; refimpl train makes one")
    if labels and config.labels != labels and set(config.labels) == set(labels):
        raise ValueError(f"{path} has the labels {', '.join(config.labels)}; need {', '.join(labels)}, in this order")
    return Dense(load_for(path, head, labels, stream(options.seed, Purpose.HEAD)), Tokenizer.load(path, config))


def make_setting(dense: Dense, teacher: Dense | None, data: Path, options: Options, bar: Bar, folder: Path) -> Setting:
    """What the stages of a run share; a teacher is asked of every training row here.

    folder : of the checkpoints; the caller makes it
    """
    forwards, backwards = training(options.threads)
    by_width = {width: kinds_of(options.threads, width) for width in (width_nncf, width_of_step)}
    kinds = by_width[width_nncf]

    def linear(x: Any, p: Any, tap: Tap = NO_TAP) -> Any:
        return kinds[type(p)].forward(x, p)[0] if type(p) in kinds else forwards.linear(x, p, tap)

    source = Source(data, dense.tokenizer, options.limit, forwards._replace(linear=linear), bar.evaluated)
    task = TASKS[options.task](source)
    logits = None if teacher is None else teach(task, teacher.model, forwards, bar.teaching)
    run = identity(dense, task) | {"task": options.task, "seed": options.seed, "limit": options.limit}
    if teacher is not None:
        run["teacher"] = sealed.digest([], named(teacher.model))

    @cache  # the rows are read when a stage asks for them, and once
    def ask() -> Measure:
        return MEASURES[options.task](data, dense.tokenizer, options.limit)

    return Setting(
        task=task,
        logits=logits,
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


def _fits(model: Path, options: Options) -> bool:
    return fits(read_config(model), options.task)


def _baseline(setting: Setting, dense: Dense) -> dict[str, float]:
    """What the recipe's end is beside: the model as it came, or where that has no head for the task its teacher."""
    setting.bar.begin(0, 0, "baseline")
    return setting.task.evaluate(dense.model)


def _stages(setting: Setting, recipe: Recipe, dense: Dense, resume: bool) -> tuple[list[dict[str, Any]], Work]:
    """The report's rows, and what is left. Seconds of a stage that was interrupted are not known: None."""
    work, rows = Work(dense), []
    for number, stage in enumerate(recipe.stages, 1):
        begun, goes_on = perf_counter(), resume and kept_of(setting, number).exists()
        try:
            done = run_stage(setting, number, stage, work)
        except ValueError as error:
            raise ValueError(f"stage {number}, {stage.do}: {error}") from None
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
