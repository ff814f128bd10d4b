"""Rung 7: how a first answer comes about. Kernels are compiled before they are needed, here and in helpers, whatever
becomes of these; one packed file serves every CPU; imports are few.
"""

import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors import safe_open
from test_1_arithmetic import equal
from test_2_registers import NEEDS_JIT

from refimpl.kernels import cache, compilation, cpu
from refimpl.kernels.catalog import KERNELS
from refimpl.kernels.compilation import Job, compile_all, missing
from refimpl.kernels.encoder import embed, forms, half_rows
from refimpl.kernels.execution import fastest
from refimpl.kernels.simd.threefold import Part, config
from refimpl.models import compress, packed_file
from refimpl.models.bert import forward
from refimpl.models.compiled import compiled_ops
from refimpl.models.runtime.session import Session
from refimpl.models.runtime.widths import WIDE

NAME = tiny.ONE_OF_EACH_HEAD[0]
SOURCES = (embed.to_panels, embed.to_rows, embed.embed)


@pytest.fixture
def nothing_compiled(monkeypatch, tmp_path):
    """Kernels as if in a new process, with an empty folder for what is compiled; helpers see the same folder."""
    monkeypatch.setenv("REFIMPL_CACHE_DIR", str(tmp_path / "kept"))
    directory = cache.directory
    directory.cache_clear()
    for source in SOURCES:
        monkeypatch.setattr(source, "versions", {})
    yield directory()
    directory.cache_clear()


def calls():
    """Of the three kernels that compile in a moment."""
    u64, f32 = np.zeros(64, np.uint64), np.zeros(64 * 16, np.float32)
    d, s64 = np.uint64(16), np.zeros(64, np.int64)
    codes = np.zeros(64, np.int8)
    arguments = {
        embed.to_panels: (f32, embed.WIDE_ORDER, d, f32),
        embed.to_rows: (f32, s64, embed.WIDE_ORDER, d, f32),
        embed.embed: (u64, u64, u64, codes, f32, f32, f32, d, f32),
    }
    return [(source, fastest(source), False, given) for source, given in arguments.items()]


def check_compile_all(compile_jobs):
    """Every job is compiled in this process when it returns, and it has told how far it is."""
    jobs, told = missing(calls()), []
    assert [job.source for job in jobs] == list(SOURCES)
    compile_jobs(jobs, lambda done, of: told.append((done, of)))
    assert all(job.types in job.version.overloads for job in jobs)
    assert told == [(done, 3) for done in range(4)]


# --- compilation -----------------------------------------------------------------------------------------------------


@NEEDS_JIT
def test_a_helper_compiles_for_us(nothing_compiled, monkeypatch):
    jobs, told = missing(calls()), []
    work = compilation._Work(jobs, lambda done, of: told.append(done))
    (helper,) = compilation._start(1)
    work.hand_to(helper)
    helper.kill()
    helper.communicate()
    assert told == [0, 1, 2, 3]
    assert not any(job.version.overloads for job in jobs)
    assert len(list(nothing_compiled.rglob("*.nbc"))) == 3
    assert missing(calls()) == []
    for job in jobs:
        job.compile()
        assert sum(job.version.stats.cache_hits.values()) == 1


@NEEDS_JIT
def test_with_a_helper_and_then_from_the_disk(nothing_compiled, monkeypatch):
    monkeypatch.setattr(compilation, "_count", lambda pieces: 1)
    check_compile_all(compile_all)
    assert missing(calls()) == []
    for source in SOURCES:
        monkeypatch.setattr(source, "versions", {})
    assert missing(calls()) == []


BROKEN = {
    "ends at once": "pass",
    "dies on its first piece": "import sys, os; sys.stdin.buffer.read(1); os.abort()",
    "answers nonsense": "import sys; sys.stdin.buffer.read(1); print('?')",
    "never answers": "import time; time.sleep(60)",
    "cannot import us": "import sys; sys.path[:] = []; " + compilation.START.split("; ", 2)[2],
}


@NEEDS_JIT
@pytest.mark.parametrize("program", BROKEN.values(), ids=BROKEN)
def test_whatever_becomes_of_a_helper(nothing_compiled, monkeypatch, program):
    monkeypatch.setattr(compilation, "_count", lambda pieces: 1)
    monkeypatch.setattr(compilation, "START", program)
    monkeypatch.setattr(compilation, "PATIENCE", 0.1)
    check_compile_all(compile_all)


@NEEDS_JIT
@pytest.mark.parametrize("program", ["", "/nowhere/python", "/bin/sh"])
def test_python_that_cannot_be_started_again(nothing_compiled, monkeypatch, program):
    monkeypatch.setattr(sys, "executable", program)
    check_compile_all(compile_all)


def test_how_many_helpers(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.4, 9, 9), raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert [compilation._count(pieces) for pieces in (0, 1, 2, 3, 9)] == [0, 0, 1, 2, compilation.MOST - 1]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5}, raising=False)
    assert compilation._count(9) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 6}, raising=False)
    assert compilation._count(9) == 1
    monkeypatch.setattr(os, "getloadavg", lambda: (0.9, 0, 0), raising=False)
    assert compilation._count(9) == 0
    monkeypatch.setattr(os, "getloadavg", lambda: (0, 0, 0), raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "server"))
    assert compilation._count(9) == 0
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert compilation._count(9) == 1
    monkeypatch.setattr(cache, "directory", lambda: None)
    assert compilation._count(9) == 0


@NEEDS_JIT
def test_threads_that_ask_for_one_kernel_at_once(nothing_compiled, monkeypatch):
    """None is given it before it is kept on disk, which ``missing`` asks about."""
    make = Part._jit

    def slowly(source, name, *rest):
        known = name in source.versions
        made = make(source, name, *rest)
        time.sleep(0.0 if known else 0.2)
        return made

    monkeypatch.setattr(Part, "_jit", slowly)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda wait: time.sleep(wait) or [job.source for job in missing(calls())], (0, 0.1)))
    assert found == [list(SOURCES)] * 2


@NEEDS_JIT
def test_without_a_folder(nothing_compiled, monkeypatch):
    monkeypatch.setattr(cache, "directory", lambda: None)
    check_compile_all(compile_all)
    for source in SOURCES:
        monkeypatch.setattr(source, "versions", {})
    assert len(missing(calls())) == 3


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    assert missing(calls()) == []


def test_kernels_are_pickled_by_name():
    sources = [kernel.source for kernel in KERNELS.values()]
    sources += [*SOURCES, *(source for form in forms.FORMS.values() for source in form.stores)]
    sources += [half_rows.half(source) for form in forms.FORMS.values() for source in form.stores]
    assert [source for source in sources if pickle.loads(pickle.dumps(source)) is not source] == []
    job = Job(sources[0], "portable", True, ())
    assert pickle.loads(pickle.dumps(job)) == job


# --- a process of its own --------------------------------------------------------------------------------------------

COMPILE = """
import numpy as np
from refimpl.kernels.compilation import compile_all, missing
from refimpl.kernels.encoder import embed
print("main runs")
rows, d, order = np.arange(64 * 16, dtype=np.float32), np.uint64(16), embed.WIDE_ORDER
panels, back, sources = np.zeros_like(rows), np.zeros_like(rows), np.arange(64)
calls = [
    (embed.to_panels, "portable", False, (rows, order, d, panels)),
    (embed.to_rows, "portable", False, (panels, sources, np.argsort(order).astype(np.uint64), d, back)),
]
compile_all(missing(calls))
for source, target, _, arguments in calls:
    source.compiled(target)(*arguments)
assert (back == rows).all()
print(sum(sum(source.compiled("portable").stats.cache_misses.values()) for source, *_ in calls))
"""


@NEEDS_JIT
def test_processes_at_once_without_a_main_module(tmp_path):
    """The program comes from standard input, so that no helper could import it, and has no guard."""
    environment = os.environ | {"REFIMPL_CACHE_DIR": str(tmp_path)}

    def start():
        command = [sys.executable, "-W", "error", "-"]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, env=environment, text=True, **pipes)

    def end(process):
        out, err = process.communicate(COMPILE)
        assert err == ""
        said, misses = out.splitlines()
        assert said == "main runs"
        return int(misses)

    first, second = start(), start()
    first.stdin.write(COMPILE)
    first.stdin.close()
    first.stdin = None
    end(second)
    out, err = first.communicate()
    assert (out.splitlines()[0], err) == ("main runs", "")
    assert end(start()) == 0


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model.safetensors"
    packed_file.save(compress.pack(tiny.quantized(NAME)), path)
    return path


RUN = """
import sys
from refimpl.models import cli
sys.argv = ["refimpl", "run", sys.argv[1], "--text", "the cat"]
needless = {"onnx", "onnxruntime", "openvino", "torch", "transformers", "matplotlib", "refimpl.models.judge"}
try:
    cli.main()
finally:
    print("imported", *needless & {*sys.modules})
"""


def test_run_imports_no_engine(packed):
    done = subprocess.run([sys.executable, "-c", RUN, str(packed)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported"


# --- one file for every CPU ------------------------------------------------------------------------------------------


def without(monkeypatch, *prefixes):
    """This CPU as if it lacked features."""
    rest = frozenset(feature for feature in cpu.features() if not feature.startswith(prefixes))
    monkeypatch.setattr(cpu, "features", lambda: rest)


@NEEDS_JIT
def test_a_cpu_without_the_features_runs_the_same_file_and_says_so(packed, monkeypatch):
    loaded = packed_file.load(packed)
    batch = tiny.batch(NAME)
    here = Session(loaded)
    without(monkeypatch, "avx512", "avxvnni")
    with pytest.warns(UserWarning, match="this CPU lacks .*avx512vnni.*: kernels run in portable form, slower") as said:
        there = Session(loaded)
    assert len(said) == 1
    assert (there.execution, there.widths) == ("portable", (WIDE,))
    equal(there(*batch), here(*batch))
    (ready,) = there._plans.values()
    ran = {run.__name__ for step, (run, _) in zip(ready.plan.steps, ready.calls, strict=True) if step.kernel.features}
    assert ran
    assert all(name.endswith("_portable") for name in ran)


def test_a_cpu_without_half_the_features_leaves_out_half_panels(packed, monkeypatch):
    loaded = packed_file.load(packed)
    here = Session(loaded)
    if here.execution != "native":
        pytest.skip("this CPU has no native kernels to leave some out of")
    without(monkeypatch, "avx512vbmi")
    there = Session(loaded)
    assert (there.execution, there.widths) == ("native", (WIDE,))
    equal(there(*tiny.batch(NAME)), here(*tiny.batch(NAME)))


def test_the_file_does_not_depend_on_the_cpu(packed, tmp_path, monkeypatch):
    without(monkeypatch, "avx512", "avxvnni")
    packed_file.save(compress.pack(tiny.quantized(NAME)), tmp_path / "there")
    assert contents(tmp_path / "there") == contents(packed)


def contents(path):
    """Of a safetensors file, whose metadata stand in no order."""
    with safe_open(path, "numpy") as handle:
        return handle.metadata(), {name: handle.get_tensor(name).tobytes() for name in handle.keys()}  # noqa: SIM118


@NEEDS_JIT
def test_answers_are_those_of_the_reference(packed):
    loaded, batch = packed_file.load(packed), tiny.batch(NAME)
    reference = forward(loaded.model, batch, compiled_ops("portable"))
    assert (Session(loaded)(*batch).argmax(-1) == reference.argmax(-1)).all()
