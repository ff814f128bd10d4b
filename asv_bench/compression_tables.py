"""Rows of compression.py as a page: tables of accuracy, sizes and CPUs without VNNI, then each row with its command."""

from collections.abc import Collection, Sequence
from typing import Any

from compression_bars import DENSE, KINDS, TASKS, TRIED, Page, Row, bars, kind, said, stage_of
from tables import markdown

ENGINES = ("refimpl", "ONNX Runtime", "OpenVINO")
NONE = "-"
INTRO = """# Results on real data

Made by `python asv_bench/compression.py render` of `asv_bench/results/compression/*.json`, which `collect` measured on
what `refimpl compress --recipe` left, and `old-cpu` on an old CPU; no number is typed. Accuracy and F1 are in percent,
on the task's whole dev set unless a row says otherwise. "f32" is the model after the recipe's training, on our engine,
nothing quantized: what learned under quantization (qat, jpqd) may be worse so. The three engines have the files as they
are, INT8 but for dense rows, and brackets say how many rows one answers otherwise than ours. "Below dense" is in
points, our engine's INT8 against the dense row that the recipe began with; a bar is what the project set itself before
it measured. The encoder's bytes are those of its linear layers, f32 before and as stored after; sparsity is the share
of its weights that are zero or gone. Minutes are of the whole run on one core, beside another training on the other;
none where it was interrupted."""
SHORTENED = """\
For time, a row that names a limit was trained on so many rows and asked so many, and has no bar; recipes in
`asv_bench/recipes/` have fewer epochs than those that ship. A dense model of such a row is not the best that its base
gives, and in so few updates movement pruning removes few whole heads."""


# --- tables ----------------------------------------------------------------------------------------------------------


def label(row: Row) -> str:
    """The recipe, and what tells rows of one recipe apart."""
    trial = "" if row["limit"] is None else f", first {row['limit']:,} rows of each file"
    recipe, name = row["recipe"]["name"], row["name"]
    return f"{recipe}{trial}" if recipe == name else f"{recipe} (`{name}`{trial})"


def quality(page: Page) -> str:
    """Accuracy in f32 and as stored, in each engine, and the bars."""
    header = ["recipe", "f32", *ENGINES, "below dense"]
    rows = [
        [label(row), f"{row['trained'][page.metric]:.2f}", *(_engine(page, row, name) for name in ENGINES),
         NONE if kind(row) == DENSE else f"{page.below(row):.2f}",
         "; ".join(said(bar) for bar in bars(page, row)) or NONE]
        for row in page.rows
    ]  # fmt: skip
    return markdown([*header, "bar"], rows)


def missed(page: Page) -> list[str]:
    """What was tried where a bar is missed, a text a kind of rows."""
    kinds = dict.fromkeys(kind(row) for row in page.rows if any(bar.met is False for bar in bars(page, row)))
    return [TRIED[found] for found in kinds if found in TRIED]


def _engine(page: Page, row: Row, name: str) -> str:
    found = next((engine for engine in row["engines"] if engine["name"] == name), None)
    if found is None or not found["ran"]:
        return "did not run"
    others = f" ({found['different']} differ)" if found["different"] else ""
    return f"{found['metrics'][page.metric]:.2f}{others}"


def sizes(page: Page) -> str:
    """What is left, bytes, minutes."""
    rows = []
    for row in page.rows:
        encoder, files = row["sizes"]["encoder"], row["sizes"]["files"]
        kept = [
            " of ".join(f"{n:,}" for n in row[key]) if _removed(row, key) else "all" for key in ("heads", "neurons")
        ]
        packed = files.get("packed.safetensors")
        bytes_ = f"{encoder['before'] / 1e6:.1f} → {encoder['after'] / 1e6:.1f}"
        rows.append(
            [label(row), f"{row['sparsity']:.1%}", *kept, bytes_, f"{encoder['ratio']:.2f}",
             NONE if packed is None else f"{packed / 1e6:.1f}", minutes(row), str(row["seed"])]
        )  # fmt: skip
    header = ["recipe", "sparsity", "heads", "neurons", "encoder, MB", "times smaller", "packed file, MB", "minutes"]
    return markdown([*header, "seed"], rows)


def _removed(row: Row, key: str) -> bool:
    return key in row and row[key][0] != row[key][1]


def minutes(row: Row) -> str:
    """None where the run was interrupted, or its time is not known."""
    return NONE if row["seconds"] is None else f"{row['seconds'] / 60:.1f}"


COLUMNS: dict[str, tuple[str, str]] = {
    "OpenVINO": ("compressed", "native"),
    "without VNNI, AVX-512": ("compressed", "avx512"),
    "AVX2": ("compressed", "avx2"),
    "emulated": ("compressed", "emulated"),
    "repaired": ("repaired", "native"),
    "repaired, AVX-512": ("repaired", "avx512"),
    "repaired, AVX2": ("repaired", "avx2"),
}
"""Head of a column -> the model and how it ran."""
NATIVE_ISA = "native"


def saturation(page: Page) -> str:
    """OpenVINO with and without VNNI, and repaired; "" where no row has it."""
    rows = []
    for row in page.rows:
        if "saturation" in row:
            found = {(each["model"], each["isa"]): each for each in row["saturation"]}
            cells = [_answered(found.get(where), page.metric) for where in COLUMNS.values()]
            rows.append([label(row), *cells, _agreement(found[COLUMNS["emulated"]])])
    return markdown(["recipe", *COLUMNS, "emulated otherwise than AVX-512, AVX2"], rows) if rows else ""


def _answered(found: dict[str, Any] | None, metric: str) -> str:
    if found is None or not found["ran"]:
        return "did not run"
    others = "" if found["isa"] == NATIVE_ISA else f" ({found['different']} differ)"
    return f"{found['metrics'][metric]:.2f}{others}"


def _agreement(found: dict[str, Any]) -> str:
    return ", ".join(str(found["different_from"].get(isa, NONE)) for isa in ("avx512", "avx2"))


# --- the page --------------------------------------------------------------------------------------------------------

WITHOUT_VNNI = "### Without VNNI"
SATURATION = """\
The same INT8 files in OpenVINO kept to AVX-512 or AVX2 without VNNI, where a sum of two products saturates at 16
bits; in brackets, how many rows are answered otherwise than by the same model with VNNI. "Emulated" is our own
saturating kernel on this CPU; the last column counts the rows that it answers otherwise than the engine. "Repaired"
is the recipe's f32 model, quantized again by `ptq-overflow-fix`."""


OLD_CPU = "The model that ships with refimpl, in the engines as they are on a CPU that has no VNNI ({}):"


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Dense first, then as the bars stand."""

    def key(row: Row) -> tuple[int, float, str, str]:
        sparsity = (stage_of(row, "prune") or {}).get("sparsity", 0.0)
        return KINDS.index(kind(row)), sparsity, row["recipe"]["name"], row["name"]

    return sorted(rows, key=key)


def curve_part(curve: dict[str, Any], command: str, figure: str) -> str:
    """The figure of compression_curve.py, its numbers, and the command that measured them."""
    (metric, dense), *_ = curve["dense"].items()
    found: dict[str, list[str]] = {}
    for point in sorted(curve["points"], key=lambda point: (point["line"], -point["kept"])):
        found.setdefault(point["line"], []).append(f"{point['metrics'][metric]:.2f} at {point['kept']:.0%}")
    widest = max(map(len, found.values()))
    rows = [[line, *cells, *[NONE] * (widest - len(cells))] for line, cells in found.items()]
    table = markdown([f"{metric} at a share of weights kept", *[""] * widest], rows)
    hours = sum(point["seconds"] for point in curve["points"]) / 3600
    rows_ = "all" if curve["limit"] is None else f"the first {curve['limit']:,}"
    about = (
        f"`{curve['model']}`, {dense:.2f} before, is pruned in short trainings on {rows_} training rows for "
        f"{curve['epochs']} epoch{'s' * (curve['epochs'] > 1)}, its own teacher, in f32: what criteria are worth "
        f"beside each other, not what a whole recipe reaches. inc ranks the blocks of all layers together; movement is "
        f"NNCF's, whose factor decides the density; topk ranks learned scores, as Sanh et al. do, for which the "
        f"training is too short, and is not in the figure. Seed {curve['seed']}, {hours:.1f} hours for "
        f"{len(curve['points'])} points, on {curve['machine']}."
    )
    picture = f"![{metric} against the share of weights that are kept, by criterion]({figure})"
    return "\n\n".join([picture, table, about, f"    {command}"])


def old_cpu(found: dict[str, Any], metric: str) -> str:
    """The embedded model on a CPU without VNNI."""
    engines = [each for each in found["engines"] if each["ran"]]
    rows = [[f"{each['name']} {each['version']}", f"{each['metrics'][metric]:.2f}", str(each["different"])]
            for each in engines]  # fmt: skip
    first, *others = (each["name"] for each in engines)
    different = found["emulated"]["different_from"]
    apart = "; ".join([str(different[first]), *(f"{different[name]} unlike {name}" for name in others)])
    rows.append(["emulated", f"{found['emulated']['metrics'][metric]:.2f}", apart])
    return f"{OLD_CPU.format(found['machine'])}\n\n{markdown(['', metric, 'rows answered unlike refimpl'], rows)}"


def page(rows: Sequence[Row], curve: str | None, old: dict[str, Any] | None = None) -> str:
    """All of it. curve: ``curve_part``, or None; old: for ``old_cpu``."""
    parts = [INTRO]
    for task, (name, metric) in TASKS.items():
        here = Page(task, in_order([row for row in rows if row["task"] == task]))
        if here.rows:
            counts = sorted({engine["rows"] for row in here.rows for engine in row["engines"] if engine["ran"]})
            seen = " or ".join(f"{count:,}" for count in counts)
            parts += [f"## {name}: {metric} on {seen} dev rows", quality(here), *missed(here), sizes(here)]
            parts += [SHORTENED] if any(row["limit"] is not None for row in here.rows) else []
            without = saturation(here)
            more = [SATURATION, without] if without else []
            more += [old_cpu(old, metric)] if old is not None and old["task"] == task else []
            parts += [WITHOUT_VNNI, *more] if more else []
    if curve is not None:
        parts += [f"## Accuracy against density\n\n{curve}"]
    names = {row["name"] for row in rows if kind(row) == DENSE}
    parts += ["## Commands", *(_row(row, names) for row in in_order(rows))] if rows else ["Nothing is collected yet."]
    return "\n\n".join(parts) + "\n"


def _row(row: Row, dense: Collection[str]) -> str:
    """dense: rows that say themselves how their model was trained."""
    engines = ", ".join(f"{engine['name']} {engine['version']}" for engine in row["engines"] if engine["ran"])
    facts = [f"{engine['name']} did not run: {engine['why']}" for engine in row["engines"] if not engine["ran"]]
    facts += [f"{each['isa']} did not run: {each['why']}" for each in row.get("saturation", []) if not each["ran"]]
    clip = [engine["name"] for engine in row["engines"] if engine.get("saturates")]
    facts += [f"without VNNI on {row['machine']}, sums of pairs saturate in {' and '.join(clip)}"] if clip else []
    facts += row["notes"]
    time = "time not known" if row["seconds"] is None else f"{minutes(row)} minutes"
    about = f"{about}. " if (about := row["recipe"]["about"]) else ""
    told = f"{about}Seed {row['seed']}, {time}, on {row['machine']}; {engines}."
    first = [row["model_command"]] if "model_command" in row and row["command"].split()[2] not in dense else []
    commands = "\n".join(f"    {command}" for command in [*first, row["command"]])
    return "\n\n".join([f"**{label(row)}**: {told}", commands, *(f"* {fact}" for fact in facts)])
