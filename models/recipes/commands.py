"""The command ``compress``: by a recipe into a folder, or without training into one packed file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from refimpl.models.loading import load_dense
from refimpl.models.options import AsJson
from refimpl.models.terminal import console, print_json, read_texts, working

if TYPE_CHECKING:
    from refimpl.models.recipes.options import Options

Directory = Annotated[
    Path | None,
    typer.Argument(help="A Hugging Face directory; if left out, all-MiniLM-L6-v2, which the extra demo installs."),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write; with --recipe a folder.")]
TextFile = Annotated[
    Path | None, typer.Option("--file", "--text", help="Without a recipe: texts, one a line; if left out, our own.")
]
IntegerAttention = Annotated[
    bool, typer.Option("--int8-attention", metavar="", help="Without a recipe: attention in INT8, not f32.")
]
Force = Annotated[bool, typer.Option("--force", metavar="", help="Without a recipe: replace the file if it exists.")]
Sparsity = Annotated[
    float | None, typer.Option(help="Without a recipe: share of the 4x1 blocks to prune; 0.8 if left out.")
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="A recipe that ships, a TOML file, or NNCF's JSON; see --recipes.")
]
TaskName = Annotated[str, typer.Option("--task", help="With a recipe: sst2, squad or mlm.")]
Data = Annotated[Path | None, typer.Option(help="With a recipe: the folder with train.* and dev.*.")]
Teacher = Annotated[
    Path | None, typer.Option(help="With a recipe: who teaches; if left out, the model as it is before.")
]
Seed = Annotated[int, typer.Option(help="With a recipe: of the order of the rows, dropout and the calibration rows.")]
Limit = Annotated[int | None, typer.Option(help="With a recipe: only so many rows of each file, for a trial.")]
Threads = Annotated[int, typer.Option(help="With a recipe: threads that train.")]
SaveEvery = Annotated[int, typer.Option(help="With a recipe: updates between two checkpoints.")]
Resume = Annotated[bool, typer.Option("--resume", help="With a recipe: go on where an interrupted run stopped.")]
Recipes = Annotated[bool, typer.Option("--recipes", metavar="", help="List the recipes that ship, and end.")]
SPARSITY = 0.8


def compress(
    model: Directory = None,
    output: Output = None,
    recipe: RecipeName = None,
    task: TaskName = "sst2",
    data: Data = None,
    teacher: Teacher = None,
    seed: Seed = 0,
    limit: Limit = None,
    threads: Threads = 1,
    save_every: SaveEvery = 100,
    resume: Resume = False,
    text: TextFile = None,
    sparsity: Sparsity = None,
    int8_attention: IntegerAttention = False,
    force: Force = False,
    recipes: Recipes = False,
    as_json: AsJson = False,
) -> None:
    """Compress a model by a recipe, with training, into a folder of models and a report; or, without a recipe, prune,
    calibrate on texts, quantize and pack it into one file."""
    if recipes:
        _list(as_json)
        return
    if output is None:
        raise ValueError("--output is missing; need where to write")
    if recipe is None:
        if data is not None or teacher is not None or resume:
            raise ValueError("--data, --teacher and --resume are for recipes; need --recipe, see --recipes")
        _without_training(model, output, text, SPARSITY if sparsity is None else sparsity, int8_attention, force)
        return
    if text is not None or sparsity is not None or int8_attention or force:
        raise ValueError("--file, --sparsity, --int8-attention and --force are not for recipes; leave them out")
    from refimpl.models.recipes.options import Options

    report = _by(recipe, model, data, output, Options(task, teacher, seed, limit, threads, save_every), resume)
    if as_json:
        print_json(report)
    else:
        from refimpl.models.recipes.show import show

        show(report, console())


def _by(
    recipe: str, model: Path | None, data: Path | None, output: Path, options: "Options", resume: bool
) -> dict[str, Any]:
    from refimpl.models.recipes import reading
    from refimpl.models.recipes.run import compress_by

    if model is None or data is None:
        raise ValueError(f"{'MODEL' if model is None else '--data'} is missing; need it with --recipe")
    return compress_by(reading.load(recipe, options.task), model, data, output, options, resume, recipe)


def _list(as_json: bool) -> None:
    from refimpl.models.recipes.kinds import CHOICES, Distillation
    from refimpl.models.recipes.reading import SHIPPED, keys_of, load, names
    from refimpl.models.recipes.recipe import KINDS, to_json
    from refimpl.models.terminal import plain_table

    found = [load(name, "sst2") for name in names()]
    if as_json:
        print_json([to_json(recipe) for recipe in found])
        return
    table = plain_table("recipes")
    for column in ("name", "stages", "what it does"):
        table.add_column(column)
    for recipe in found:
        table.add_row(recipe.name, ", ".join(stage.do for stage in recipe.stages), recipe.about)
    console().print(table)
    keys = plain_table("keys of a stage: those that it needs, and the others with what they are if left out")
    for column in ("do", "needs", "may have"):
        keys.add_column(column)
    for do, kind in {**KINDS, "distil = { ... }": Distillation}.items():
        needed, others = keys_of(kind)
        keys.add_row(do, ", ".join(needed), escape(", ".join(f"{key} = {value}" for key, value in others.items())))
    choices = plain_table("what keys may be")
    for column in ("key", "one of"):
        choices.add_column(column)
    for key, values in CHOICES.items():
        choices.add_row(key, ", ".join(values))
    console().print(keys, choices)
    console().print(f"Files, to copy and change: {escape(str(SHIPPED))}", soft_wrap=True)
    console().print(f"What the keys mean: {escape(str(SHIPPED.with_name('kinds.py')))}, prune_kind.py", soft_wrap=True)


def _without_training(
    model: Path | None, output: Path, text: Path | None, sparsity: float, int8_attention: bool, force: bool
) -> None:
    from refimpl import check
    from refimpl.models import compress as stages
    from refimpl.models import packed_file
    from refimpl.models.files import check_output

    check.fraction("sparsity", sparsity)
    check_output(output, force)
    quantizer = stages.quantize_with_attention if int8_attention else stages.quantize
    with working("prune, calibrate, quantize, pack"):
        packed = stages.compress(load_dense(model), read_texts(text), 1 - sparsity, quantizer=quantizer)
    packed_file.save(packed, output)
    size = f"{output.stat().st_size / 1e6:.1f} MB"
    console().print(f"{escape(str(output))}: {size}, {sparsity:.0%} of the 4x1 blocks pruned")
