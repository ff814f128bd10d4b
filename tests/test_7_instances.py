"""Rung 7: several sessions on one copy of the weights. Oracle: a session alone, to the bit.

What may kill or fork a process runs in programs of their own.
"""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_1_arithmetic import equal
from test_2_registers import NEEDS_JIT
from test_5_kernels import need_threads
from test_cli import one_line, refimpl  # noqa: F401
from tiny import ONE_OF_EACH_HEAD, batch, quantized, rows, same

from refimpl.models import compress, packed_file
from refimpl.models.bench.synthetic import synthetic
from refimpl.models.runtime import cores, session, shared
from refimpl.models.runtime.available import GROUP, GROUPS, MEMORY, available
from refimpl.models.runtime.instances import AHEAD, Instances
from refimpl.models.runtime.processes import Nursery
from refimpl.models.runtime.session import Session
from refimpl.models.runtime.shared import Place, lay_out, share
from refimpl.models.runtime.weights import prepare

pytestmark = NEEDS_JIT
NAME = ONE_OF_EACH_HEAD[0]
COLLISION = [640, 644, 62720, 4]
"""Bytes of arrays that then lie at 0, 640, 1344 and 64064: two of them are 640644 in digits of offset and size."""


def packed(name=NAME):
    return compress.pack(quantized(name))


@pytest.fixture
def program(tmp_path):
    """A program that finds a packed model and a batch in its folder, started; what it prints."""
    (tmp_path / "batch").write_bytes(pickle.dumps(tuple(batch(NAME))))

    def start(text, model=None, **environment):
        packed_file.save(model or packed(), tmp_path / "model")
        (tmp_path / "program.py").write_text(HEAD + text, "utf-8")
        return subprocess.Popen(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


HEAD = """
import multiprocessing, os, pickle, signal, sys, threading
from pathlib import Path
import numpy as np
from refimpl.models import packed_file
from refimpl.models.runtime.instances import Instances
from refimpl.models.runtime.session import Session
from refimpl.models.runtime.shared import share
batch = pickle.loads(Path("batch").read_bytes())
"""


def run(program):
    """Its lines, when it has ended well."""
    out, _ = program.communicate(timeout=120)
    assert program.returncode == 0
    return out.splitlines()


# --- one copy --------------------------------------------------------------------------------------------------------


def check_lay_out(lay_out):
    """Each place has bytes of its own, on cache lines, and one place has them once."""
    ends = np.cumsum([0, *(size + 1000 for size in COLLISION)])
    places = [Place(int(at), size) for at, size in zip(ends, COLLISION, strict=False)]
    places += [Place(10**6, 100), places[1], Place(10**6, 64), Place(2 * 10**6, 100), places[0]]
    offsets, size = lay_out(places)
    assert len(offsets) == len(places)
    assert all(offset % 64 == 0 for offset in offsets)
    spans = {place: (offset, offset + place.size) for place, offset in zip(places, offsets, strict=True)}
    assert [spans[place][0] for place in places] == offsets
    assert size == sum(-(-place.size // 64) * 64 for place in set(places))
    ordered = sorted(spans.values())
    assert all(end <= start for (_, end), (start, _) in zip(ordered, [*ordered[1:], (size, size)], strict=True))


def test_weights_named_by_digits_would_collide():
    """The arrays of which Intel's runtime would take one for the other."""
    arrays = tuple(np.full(size, i, np.uint8) for i, size in enumerate(COLLISION))
    offsets, _ = lay_out([Place(array.ctypes.data, array.nbytes) for array in arrays])
    names = [f"{offset}{size}" for offset, size in zip(offsets, COLLISION, strict=True)]
    assert names[1] == names[3]
    same(share(arrays).tree, arrays)


def leaves(tree):
    if isinstance(tree, tuple):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [tree] if isinstance(tree, np.ndarray) and tree.ndim else []


@pytest.mark.parametrize("name", ONE_OF_EACH_HEAD)
def test_shared_weights_are_the_weights(name):
    weights = prepare(packed(name))
    copy = share(weights).tree
    same(copy, weights)
    assert all(array.ctypes.data % 64 == 0 and array.flags.writeable for array in leaves(copy))
    equal(Session(copy)(*batch(name)), Session(weights)(*batch(name)))


def test_what_appears_twice_is_stored_once_and_writing_is_private():
    x = np.arange(1000, dtype=np.float32)
    made = share((x, x[:], x.reshape(10, 100), x[1:], np.zeros(0), {"y": x}))
    a, b, c, d, empty, more = made.tree
    assert np.shares_memory(a, b)
    assert np.shares_memory(a, c)
    assert np.shares_memory(a, more["y"])
    assert not np.shares_memory(a, d)
    assert empty.size == 0
    assert os.fstat(made.file).st_size == 2 * 64 * 63
    other = shared.Shared(os.dup(made.file), made._skeleton, made._spans)
    a[:] = -1
    equal(other.tree[0], x)


def test_nothing_to_share():
    assert share(()).tree == ()


@pytest.mark.parametrize("memfd", [True, False])
def test_the_block_has_no_name(monkeypatch, tmp_path, memfd):
    monkeypatch.setattr(shared.tempfile, "tempdir", str(tmp_path))
    if not memfd:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("this system has no memfd_create")
    made = share(np.arange(10.0))
    equal(made.tree, np.arange(10.0))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        RuntimeError, match="Shared objects should only be shared between processes through inheritance"
    ):
        pickle.dumps(made)


def test_every_way_to_start_a_process(program):
    """Each child has the right output and then writes to the weights, which nobody else sees."""
    if sys.platform != "linux":
        pytest.skip("looks at /proc, and forks")
    lines = run(
        program("""
def work(shared, pipe, end):
    output = Session(shared.tree)(*batch)
    shared.tree.word[:] = 0
    blocks = [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:refimpl" in line]
    pipe.send((output, len(blocks), all("(deleted)" in line for line in blocks)))
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "raise":
        sys.exit("an exception")

if __name__ == "__main__":
    weights = Session(packed_file.load(Path("model"))).weights
    shared, want = share(weights), Session(weights)(*batch)
    for method, end in (("fork", "kill"), ("spawn", "raise"), ("forkserver", "end")):
        context = multiprocessing.get_context(method)
        here, there = context.Pipe()
        process = context.Process(target=work, args=(shared, there, end))
        process.start()
        there.close()
        output, *blocks = here.recv()
        process.join()
        after = np.array_equal(Session(shared.tree)(*batch), want)
        print(method, process.exitcode, *blocks, np.array_equal(output, want), after)
""")
    )
    assert lines == ["fork -9 1 True True True", "spawn 1 1 True True True", "forkserver 0 1 True True True"]


# --- instances -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stream():
    """Batches of a tiny model, and what a session gives."""
    alone = Session(packed())
    batches = [*rows(NAME), batch(NAME)] * 5
    return batches, [alone(*one) for one in batches]


@pytest.mark.parametrize("options", [{}, {"pin": True}, {"processes": True, "pin": True}], ids=str)
def test_outputs_come_in_order_and_a_bad_batch_harms_no_other(stream, options):
    """Two sessions at once, on the same weights, give the bits of one alone."""
    need_threads(2)
    batches, want = stream
    with Instances(packed(), 2, **options) as two:
        for got, one in zip(two.run(iter(batches)), want, strict=True):
            equal(got, one)
        ids = batches[0].ids
        outputs = two.run([batches[0], (ids.astype(float),), ids, batches[1], (ids, ids[:, :1]), batches[2]])
        equal(next(outputs), want[0])
        with pytest.raises(TypeError, match="ids is float64; need an array of integers"):
            next(outputs)
        with pytest.raises(TypeError, match="a batch is ndarray; need a tuple of ids, mask and types"):
            next(outputs)
        equal(next(outputs), want[1])
        with pytest.raises(ValueError, match="mask has shape"):
            next(outputs)
        equal(next(outputs), want[2])
        assert list(outputs) == []
        equal(two.submit(*batches[3]).result(), want[3])
        where = [os.sched_getaffinity(pid) for pid in two.pids] or [
            two._pool.submit(os.sched_getaffinity, 0).result(),
        ]
        assert all(len(found) == (1 if options else len(cores.cores())) for found in where)
        assert len(two.pids) == 2 * ("processes" in options)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        two.submit(*batches[0])
    assert not any(Path(f"/proc/{pid}").exists() for pid in two.pids)


def test_batches_are_taken_as_they_are_needed(stream):
    batches, want = stream
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield batches[0]

    with Instances(packed(), 1) as one:
        outputs = one.run(endless())
        for _ in range(3):
            equal(next(outputs), want[0])
    assert len(taken) == 3 - 1 + AHEAD


def test_an_exception_leaves_the_block_at_once(stream):
    def leave():
        with Instances(packed(), 1) as one:
            pending.extend(one.submit(*stream[0][3]) for _ in range(1000))
            raise KeyError("enough")

    pending = []
    with pytest.raises(KeyError):
        leave()
    assert all(future.done() for future in pending)
    assert pending[-1].cancelled()


def test_a_killed_process_is_replaced(stream):
    if not Path("/proc/self/stat").exists():
        pytest.skip("looks for processes in /proc")
    batches, want = stream
    with Instances(packed(), 1, processes=True) as one:
        (pid,) = one.pids
        os.kill(pid, signal.SIGSTOP)  # so that the batch is on its way
        lost, next_ = one.submit(*batches[0]), one.submit(*batches[1])
        time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=f"process {pid} of an instance was killed by SIGKILL, and its batch is"):
            lost.result()
        equal(next_.result(), want[1])
        assert one.pids != [pid]
        (pid,) = one.pids
        nursery = int(re.search(r"PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())[1])
        os.kill(nursery, signal.SIGKILL)
        equal(one.submit(*batches[2]).result(), want[2])
        os.kill(pid, signal.SIGKILL)
        for message in (f"process {pid} of an instance ended, and its", "the process that starts instances is gone"):
            with pytest.raises(RuntimeError, match=message):
                one.submit(*batches[0]).result()


def test_nothing_survives_the_caller(program):
    """Killed, so that it can tidy nothing up."""
    if sys.platform != "linux":
        pytest.skip("looks for processes in /proc")
    caller = program("""
if __name__ == "__main__":
    with Instances(packed_file.load(Path("model")), 2, processes=True) as instances:
        instances.submit(*batch).result()
        print(*instances.pids, flush=True)
        sys.stdin.read()
""")
    pids = [int(pid) for pid in caller.stdout.readline().split()]
    nursery = Path(f"/proc/{pids[0]}/stat").read_text().rsplit(") ", 1)[1].split()[1]
    assert len(pids) == 2
    caller.kill()
    caller.communicate()
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in (*pids, nursery)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


class Unready:
    """Cannot be unpickled."""

    def __reduce__(self):
        return int, ("no number",)


def test_a_nursery_that_does_not_start(capfd):
    with pytest.raises(RuntimeError, match="the process that starts instances ended with status 1 before it was ready"):
        Nursery(Unready(), 1)
    assert "no number" in capfd.readouterr().err


def test_a_forked_process(program):
    need_threads(2)
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    lines = run(
        program("""
one = Session(packed_file.load(Path("model")))
two = Session(one.weights, threads=2)
with Instances(one.weights, 1) as instances:
    want = one(*batch)
    assert np.array_equal(two(*batch), want)
    assert np.array_equal(instances.submit(*batch).result(), want)
    if os.fork() == 0:
        for what in (two, instances.submit):
            try:
                what(*batch)
            except RuntimeError as error:
                print(error, flush=True)
        print(np.array_equal(one(*batch), want), flush=True)
        try:
            print(np.array_equal(Session(one.weights, threads=2)(*batch), want), flush=True)
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    print(os.wait()[1], flush=True)
print(np.array_equal(two(*batch), want))
import numba
print(numba.threading_layer())
""")
    )
    openmp = lines[-1] == "omp"
    assert lines[:-1] == [
        "the process was forked after this session was made; make another with threads=1",
        "the process was forked after these instances started; start others in it",
        "True",
        "the process was forked after it had used OpenMP; threads is 2, need 1" if openmp else "True",
        "0",
        "True",
    ]


def test_parallel_code_takes_turns_where_it_must(program):
    """numba's layer "workqueue" ends the program if two Python threads run parallel code at once."""
    need_threads(2)
    lines = run(
        program(
            """
one = Session(packed_file.load(Path("model")))
want, wrong = one(*batch), []
with Instances(one.weights, 2, threads=2) as instances:
    print(sum(np.array_equal(output, want) for output in instances.run([batch] * 60)))
import numba
print(numba.threading_layer())
""",
            NUMBA_THREADING_LAYER="workqueue",
            PYTHONWARNINGS="ignore",
        )
    )
    assert lines == ["60", "workqueue"]


def test_instances_that_cannot_be(monkeypatch):
    weights = prepare(packed())
    for count, threads, message in ((0, 1, "count is 0; need at least 1"), (1, 0, "threads is 0; need 1 to")):
        with pytest.raises(ValueError, match=message):
            Instances(weights, count, threads)
    with pytest.raises(RuntimeError, match="the instances have not started; need a with block"):
        Instances(weights, 1).submit(*batch(NAME))
    monkeypatch.delattr(os, "fork", raising=False)
    with pytest.raises(RuntimeError, match="this system cannot fork processes; need instances that are threads"):
        Instances(weights, 1, processes=True).__enter__()


def test_cores_of_the_instances(monkeypatch):
    monkeypatch.setattr(cores, "cores", lambda: [0, 2, 4, 6, 9])
    assert cores.split(2, 2, True) == [[0, 2], [4, 6]]
    assert cores.split(5, 1, False) == [[]] * 5
    with pytest.warns(UserWarning, match="2 instances with 4 threads each will wait .*: this process may use 5 cores"):
        assert cores.split(2, 4, True) == [[0, 2, 4, 6], [0, 2, 4, 9]]
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.warns(UserWarning, match="this system cannot pin threads to cores: the instances run anywhere"):
        assert cores.split(1, 2, True) == [[]]


# --- memory ----------------------------------------------------------------------------------------------------------

MB = 2**20
COSTS = """
import ctypes, json, re

def costs(pid):
    \"\"\"Bytes that only this process has; of the shared block, the bytes that it has a copy of.\"\"\"
    if pid == "self":
        ctypes.CDLL(None).malloc_trim(0)  # what is free is not to be taken for what the second instance takes
    private = copied = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, number, *_ = *line.split(), ""
        if not name.endswith(":"):
            block = "memfd:refimpl" in line
        elif block and name == "Anonymous:":
            copied += int(number) * 1024
        elif not block and name in ("Private_Clean:", "Private_Dirty:"):
            private += int(number) * 1024
    return private, copied

def leaves(tree):
    return [leaf for branch in tree for leaf in leaves(branch)] if isinstance(tree, tuple) else [tree]

if __name__ == "__main__":
    first = Session(packed_file.load(Path("model")))
    ids = np.random.default_rng(0).integers(0, 30000, (1, 128))
    want = first(ids)
    weights = sum(leaf.nbytes for leaf in leaves(first.weights) if isinstance(leaf, np.ndarray))
    before, _ = costs("self")
    second = Session(first.weights)
    assert np.array_equal(second(ids), want)
    thread = costs("self")[0] - before
    with Instances(first.weights, 2, processes=True) as two:
        assert all(np.array_equal(output, want) for output in two.run([(ids,)] * 20))
        processes = [costs(pid) for pid in two.pids]
        pss = [int(re.search("Pss: +([0-9]+)", Path(f"/proc/{pid}/smaps_rollup").read_text())[1]) for pid in two.pids]
    whole = costs("self")[0] - thread
    print(json.dumps([weights, first._arena.nbytes, second._arena.nbytes, whole, thread, processes, pss]))
"""


def test_a_second_instance_costs_less_than_a_tenth(program):
    """Of DistilBERT, for one text of 128 tokens. A thread has its arena and its plan, beside the first's weights and
    arena. A process has Python objects of its own as well, beside all that a process with one session has for itself;
    no page of the weights is copied."""
    if sys.platform != "linux":
        pytest.skip("looks at /proc")
    weights, arena, other, whole, thread, processes, pss = json.loads(
        run(program(COSTS, compress.pack(synthetic(0.2))))[0]
    )
    print(f"{weights=} {arena=} {whole=} {thread=} {processes=} {pss=}")
    assert arena == other > 1.5 * MB
    assert arena - 0.1 * MB < thread
    assert weights < 41.1 * MB
    assert thread < 0.1 * (weights + arena)
    assert whole > weights + arena
    assert all(private < 0.1 * whole for private, _ in processes)
    assert [copied for _, copied in processes] == [0, 0]


def test_a_session_has_no_second_copy_of_a_packed_file(tmp_path):
    """Of the arrays of a loaded model that are as a kernel reads them; q, k and v are joined, column indices
    are narrowed."""
    packed_file.save(packed(), tmp_path / "model")
    model = packed_file.load(tmp_path / "model")
    weights = Session(model, form="4x1").weights
    layer, prepared = model.model.layers[0], weights.layers[0]
    for theirs, ours in (
        (model.model.embeddings.word.codes, weights.word),
        (model.model.embeddings.position, weights.position),
        (layer.output.weight.values, prepared.output.arrays[2]),
        (layer.intermediate.weight.values, prepared.intermediate.arrays[2]),
    ):
        assert np.shares_memory(theirs, ours)


def test_a_larger_batch_than_before_and_one_that_is_too_large(monkeypatch):
    """The arena grows, what is too much is refused, and the session goes on."""
    one, whole = rows(NAME)[0], batch(NAME)
    want, want_whole = Session(packed())(*one), Session(packed())(*whole)
    this = Session(packed())
    equal(this(*one), want)
    small = this._arena.nbytes
    monkeypatch.setattr(session, "available", lambda: 2 * small)
    many = np.repeat(whole.ids, 400, 0)
    with pytest.raises(
        ValueError, match=r"a batch of 1200 texts, \d+ tokens with padding, needs 0.\d+ GB beside the w"
    ):
        this(many)
    equal(this(*one), want)
    monkeypatch.setattr(session, "available", lambda: float("inf"))
    empty = session.aligned.empty

    def refuse(shape, dtype):
        if shape[0] > 10 * small:
            raise MemoryError
        return empty(shape, dtype)

    monkeypatch.setattr(session.aligned, "empty", refuse)
    with pytest.raises(ValueError, match=r"0\.00 GB are left; give it in parts"):
        this(many)
    monkeypatch.undo()
    equal(this(*whole), want_whole)
    equal(this(*one), want)
    assert this._arena.nbytes > small


def test_available_memory(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert available(tmp_path) == float("inf")
    write(MEMORY, "MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:   64 kB\n")
    assert available(tmp_path) == 64 * 1024
    write(GROUP, "1:name=systemd:/x\n0::/a/b\n")
    for name, text in (("current", "5000\n"), ("stat", "anon 1\nfile 9\ninactive_file 300\n"), ("max", "max\n")):
        write(f"{GROUPS}/a/b/memory.{name}", text)
    assert available(tmp_path) == 64 * 1024
    write(f"{GROUPS}/a/b/memory.max", "6000\n")
    assert available(tmp_path) == 6000 - 5000 + 300
    assert available() > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_in_a_run_leaves_the_session_usable(threads):
    need_threads(threads)
    this, one = Session(packed(), threads=threads), batch(NAME)
    want = this(*one)
    ready = this.ready(this.shape(one.mask))
    for i in range(0, len(ready.calls), 5):
        kept = ready.calls[i]
        ready.calls[i] = (lambda *_: 1 / 0, kept[1])
        with pytest.raises(ZeroDivisionError):
            this(*one)
        ready.calls[i] = kept
        equal(this(*one), want)
