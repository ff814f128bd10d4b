"""The commands ``record`` and ``replay``."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from refimpl.models.options import AsJson, Force, Inputs, Optimize, Tensors, Threads, Timeout, TokenizerPath
from refimpl.models.terminal import console, plain_table, print_json, progress_console

Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Any ONNX file.")]
EngineName = Annotated[
    str,
    typer.Option("--engine", help="onnxruntime, openvino, module:function, ./lib.so:symbol or 'command PROGRAM ...'."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
Isa = Annotated[str, typer.Option("--isa", help="native, avx512 (without VNNI), avx2 or qemu-haswell.")]
TextFile = Annotated[Path | None, typer.Option("--file", "--text", help="A file of texts, one a line, instead.")]
RecordFile = Annotated[Path, typer.Argument(metavar="FILE", help="What refimpl record wrote, on any machine.")]
RecordedModel = Annotated[
    Path | None,
    typer.Option("--model", metavar="MODEL.onnx", help="What it was made of; if left out, looked for beside it."),
]

LABELS = {"products": "u8 x s8 products"}


def record(
    model: Model,
    engine: EngineName,
    output: Output,
    isa: Isa = "native",
    inputs: Inputs = None,
    text: TextFile = None,
    tokenizer: TokenizerPath = None,
    tensors: Tensors = None,
    threads: Threads = 1,
    optimize: Optimize = True,
    timeout: Timeout = 300.0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Run an ONNX file in an engine, on this CPU or one with fewer instructions, and keep what it returned.

    Exit status: 0 if the record was written, 2 if not, be it that the engine cannot run.
    """
    from refimpl.models.engines import onnx_file
    from refimpl.models.engines.isolated import Conditions, run_isolated
    from refimpl.models.files import check_output
    from refimpl.models.records.file import save_record
    from refimpl.models.records.inputs import chosen_tensors, given_inputs

    check_output(output, force)
    made = onnx_file.load(model)
    arrays = given_inputs(made, inputs, text, tokenizer)
    chosen = chosen_tensors(made, tensors)
    with progress_console().status(f"{engine} runs {model.name}"):
        run = run_isolated(engine, model, arrays, chosen, Conditions(isa, threads, optimize, timeout))
    save_record(run, arrays, output)
    facts = _facts(run.info, run.not_exposed, len(run.values), output)
    if as_json:
        print_json(facts | {"info": run.info})
    else:
        _show(facts)


def _facts(info: dict[str, Any], not_exposed: dict[str, str], stored: int, output: Path) -> dict[str, Any]:
    from refimpl.models.records.semantics import semantics_of

    return {
        "file": str(output),
        "size": output.stat().st_size,
        "engine": f"{info['engine']} {info['version']}".strip(),
        "isa": info["isa"],
        "cpu": info["emulator"] or f"{info['cpu']['model']} ({info['cpu']['name']})",
        "set": info["environment"],
        "products": semantics_of(info),
        "tensors": stored,
        "not exposed": dict(Counter(not_exposed.values())),
        "layers": info["layers"],
    }


def _show(facts: dict[str, Any]) -> None:
    table = plain_table(escape(facts["file"]))
    table.show_header = False
    for key, value in facts.items():
        if key == "file":
            continue
        if isinstance(value, dict):
            pairs = sorted(value.items(), key=lambda item: (-item[1] if isinstance(item[1], int) else 0, item[0]))
            words = (f"{name}={n}" if isinstance(n, str) else f"{n} {name}" for name, n in pairs)
            value = ", ".join(words) or "-"
        table.add_row(LABELS.get(key, key), escape(f"{value / 1e6:.2f} MB" if key == "size" else str(value)))
    console().print(table)


def replay(file: RecordFile, model: RecordedModel = None, as_json: AsJson = False) -> None:
    """Judge a record, every value of it, by what the CPU that it was made on computes. Exit status 1: it is outside."""
    from refimpl.models.engines import onnx_file
    from refimpl.models.oracle.load import load
    from refimpl.models.records.file import load_record
    from refimpl.models.records.replay import model_of
    from refimpl.models.records.replay import replay as judge
    from refimpl.models.records.show import show, to_json

    made = load_record(file)
    path = model_of(made, file, model)
    onnx_file.check_inputs(onnx_file.load(path), made.inputs)
    graph = load(path)
    with progress_console().status("judge") as status:
        found = judge(made, graph, lambda product: status.update(f"judged by the product {product}"))
    if as_json:
        print_json(to_json(found, made))
    else:
        show(found, made, str(file), console())
    raise typer.Exit(0 if found.inside else 1)
