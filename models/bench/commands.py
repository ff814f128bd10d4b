"""The command ``bench``."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refimpl.models.bench.plan import BATCHES, LONG, SCENARIOS, TOKENS, Budget, make_plan
from refimpl.models.loading import load_for_engine, name_of, pack, positions_of
from refimpl.models.options import (
    AsJson,
    Attention,
    Density,
    Force,
    ModelPath,
    Synthetic,
    check_limit,
    check_seconds,
    check_threads,
)
from refimpl.models.terminal import console, print_json, say, steps_bar

if TYPE_CHECKING:
    from refimpl.models.bench.plan import Plan
    from refimpl.models.bench.report import Report
    from refimpl.models.compress import Packed

Scenarios = Annotated[
    list[str] | None, typer.Option("--scenario", help=f"{', '.join(SCENARIOS)}; repeatable; all if left out.")
]
Tokens = Annotated[
    list[int] | None,
    typer.Option(
        help=f"Length of the texts; repeatable; {TOKENS[0]} to {TOKENS[-1]} if left out, and {LONG} for latency."
    ),
]
Batches = Annotated[
    list[int] | None,
    typer.Option(
        "--batch", help=f"Batch size, but for latency; repeatable; {BATCHES[0]} to {BATCHES[-1]} if left out."
    ),
]
Threads = Annotated[int, typer.Option(help="Threads of every engine.")]
Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        metavar="MODULE:FUNCTION",
        help="Another engine: function(onnx_path, batch_size, tokens, threads) -> run(ids, mask); repeatable.",
    ),
]
Seconds = Annotated[float, typer.Option(help="Time to measure a case, all engines together.")]
Limit = Annotated[float, typer.Option(help="Milliseconds that a batch may take in the production scenario.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the paper's Figure 2.")]


def bench(
    model: ModelPath = None,
    synthetic: Synthetic = False,
    scenario: Scenarios = None,
    tokens: Tokens = None,
    batch: Batches = None,
    density: Density = None,
    int8_attention: Attention = None,
    threads: Threads = 1,
    engine: Engines = None,
    seconds: Seconds = 1.0,
    limit: Limit = 10.0,
    plot: Plot = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Race our engine against every engine installed: latency, throughput, and throughput under a time limit."""
    from refimpl.models.bench.plot import check_plot
    from refimpl.models.bench.plot import plot as draw
    from refimpl.models.bench.show import show
    from refimpl.models.engines.others import load_function

    check_threads(threads)
    check_seconds(seconds)
    check_limit(limit)
    if plot is not None:
        check_plot(plot, force)
    for name in engine or []:
        load_function(name)
    loaded = load_for_engine(model, density, synthetic, int8_attention)
    budget = Budget(threads, seconds, limit / 1e3)
    plan = make_plan(scenario or [], tokens or [], batch or [], positions_of(loaded), budget)
    packed = pack(loaded, density, int8_attention)
    report = _race(packed, name_of(model, synthetic), plan, engine or [])
    if plot is not None:
        draw(report.to_json(), plot)
    if as_json:
        print_json(report.to_json())
    else:
        show(report, console())
    raise typer.Exit(0 if report.passed else 1)


def _race(packed: "Packed", name: str, plan: "Plan", added: list[str]) -> "Report":
    from refimpl.models import compress
    from refimpl.models.bench.contestants import contestants
    from refimpl.models.bench.report import Report, not_installed
    from refimpl.models.bench.standings import run
    from refimpl.models.bench.variants import export_variants
    from refimpl.models.information import density_of

    for engine in not_installed():
        say("note:", f"{engine} is not installed and is left out: python -m pip install 'refimpl[engines]'", "yellow")
    bar = steps_bar("export", len(plan.cases()), remaining=True)
    with tempfile.TemporaryDirectory() as folder, bar as begin:
        variants = export_variants(compress.unpack(packed), Path(folder))
        results = run(
            plan,
            contestants(packed, variants, plan.budget.threads, added),
            variants,
            lambda case: begin(f"{case.tokens} tokens, batch {case.batch}"),
        )
        attention = variants[0].attention
        return Report(name, packed.model.config, density_of(packed.model), attention, plan, list(results))
