"""The commands ``train`` and ``evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from refimpl.models.options import AsJson, check_counts
from refimpl.models.terminal import console, print_json

Directory = Annotated[Path, typer.Argument(metavar="MODEL", help="A Hugging Face directory to begin with.")]
Trained = Annotated[Path, typer.Argument(metavar="MODEL", help="A Hugging Face directory or a packed file.")]
TaskName = Annotated[str, typer.Option("--task", help="sst2, squad or mlm (masked language model).")]
Data = Annotated[Path, typer.Option(help="The folder with the task's files: train.* and dev.*.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The Hugging Face directory to write.")]
Epochs = Annotated[int, typer.Option(help="How often to go through the data.")]
BatchSize = Annotated[int, typer.Option("--batch", help="Rows of a batch.")]
Rate = Annotated[float, typer.Option("--learning-rate", help="The peak; it falls to 0 in a straight line.")]
Warmup = Annotated[float, typer.Option(help="Share of the updates in which the rate rises first.")]
Decay = Annotated[float, typer.Option("--weight-decay", help="Of weights, not of biases and norms.")]
Dropout = Annotated[float, typer.Option(help="Probability.")]
Accumulate = Annotated[int, typer.Option(help="Batches that make one update.")]
Seed = Annotated[int, typer.Option(help="Of the new head, the order of the rows and dropout.")]
Limit = Annotated[int | None, typer.Option(help="Use only so many rows of each file, for a trial.")]
Threads = Annotated[int, typer.Option(help="Threads that compute; another number may give other last bits.")]
SaveEvery = Annotated[int, typer.Option(help="Updates between two checkpoints.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]


def train(
    model: Directory,
    task: TaskName,
    data: Data,
    output: Output,
    epochs: Epochs = 3,
    batch: BatchSize = 32,
    learning_rate: Rate = 3e-5,
    warmup: Warmup = 0.1,
    weight_decay: Decay = 0.01,
    dropout: Dropout = 0.1,
    accumulate: Accumulate = 1,
    seed: Seed = 0,
    limit: Limit = None,
    threads: Threads = 1,
    save_every: SaveEvery = 100,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model for a task; what it has learned is a Hugging Face directory."""
    from refimpl.models.training.fine_tuning import Plan, fine_tune
    from refimpl.models.training.show import show

    plan = Plan(
        task, epochs, batch, learning_rate, warmup, weight_decay, dropout, accumulate, seed, limit, threads, save_every
    )
    report = fine_tune(model, data, output, plan, resume)
    if as_json:
        print_json(report)
    else:
        show(report, console())


def evaluate(
    model: Trained,
    task: TaskName,
    data: Data,
    limit: Limit = None,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """How good a model, a directory or a packed file, is at a task: on the engine, with the task's dev file."""
    from refimpl.models.loading import load
    from refimpl.models.runner import runner
    from refimpl.models.terminal import late_bar
    from refimpl.models.training.evaluation import MEASURES, check_head

    if task not in MEASURES:
        raise ValueError(f"--task is {task!r:.80}; need {', '.join(MEASURES)}")
    check_counts(limit=limit)
    ready = runner(load(model), threads)
    check_head(ready.config, task)
    measure = MEASURES[task](data, ready.tokenizer, limit)
    with late_bar("evaluate") as move:
        metrics = measure(ready, move)
    if as_json:
        print_json({"model": str(model), "task": task, "execution": ready.execution, **metrics})
    else:
        words = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        console().print(f"{task}: {words}; {ready.execution}", highlight=False)
