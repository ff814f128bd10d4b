"""The training loop: optimizer, schedules, clipping, batches, checkpoints; a run that is killed ends with its bits."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import training_child as child
from safetensors.numpy import load_file

from refimpl.bounds import F64, gamma
from refimpl.models import sealed
from refimpl.models.training import batches, checkpoint, clip, loop, schedule
from refimpl.models.training.optimizer import Optimizer
from refimpl.models.training.optimizer import start as moments
from refimpl.models.training.run import Interrupted, Keeping, Stopped, run_training
from refimpl.nn.adamw import AdamW, adamw

GOLDEN = Path(__file__).parent / "golden" / "training" / "adamw.safetensors"
RNG = np.random.default_rng(0)

# --- the update ------------------------------------------------------------------------------------------------------


def check_adamw(update):
    """Against torch.optim.AdamW in f64, 6 updates with rates that change (tests/golden/generate_adamw.py).

    Bound of |ours - torch's|, each rounding at most u relative. m is a sum of terms b1^j (1 - b1) g, each through at
    most 3 roundings an update: gamma(3 t) sum |terms|; v, of positive terms, 4 an update: relative gamma(4 t). Then w
    takes, an update, the errors of m / size (v's halved by the root), 8 further roundings of that quotient and 4 of
    w's own. Both sides err: twice all of it. One more rounding an update covers that the bound is evaluated in f64.
    """
    golden = load_file(GOLDEN)
    p = AdamW(*golden["settings"].tolist())
    w, m, v = golden["w.0"], np.zeros_like(golden["w.0"]), np.zeros_like(golden["w.0"])
    error, most = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, len(golden["rates"]) + 1):
        rate, g = float(golden["rates"][t - 1]), golden[f"g.{t}"]
        w, m, v = update(w, g, (m, v), t, rate, p)
        most = p.beta1 * most + (1 - p.beta1) * np.abs(g)
        size = np.sqrt(golden[f"v.{t}"] / (1 - p.beta2**t)) + p.eps
        step = rate / (1 - p.beta1**t) / size
        error += step * most * (gamma(4 * t, F64) + gamma(5 * t, F64) / 2 + gamma(8, F64))
        error += gamma(4, F64) * np.abs(golden[f"w.{t}"])
        assert (np.abs(w - golden[f"w.{t}"]) <= 2 * error).all(), t


def test_adamw_is_torchs():
    check_adamw(adamw)


def test_adamw_stays_in_its_dtype_and_refuses():
    w = np.ones(3, np.float32)
    assert {x.dtype for x in adamw(w, w, (w, w), 1, 0.1, AdamW())} == {np.dtype(np.float32)}
    with pytest.raises(TypeError, match="g has dtype float64; need float32"):
        adamw(w, w.astype(np.float64), (w, w), 1, 0.1, AdamW())
    with pytest.raises(ValueError, match=r"v has shape \(2,\); need \(3,\)"):
        adamw(w, w, (w, w[:2]), 1, 0.1, AdamW())
    with pytest.raises(ValueError, match="t is 0; need 1 or more"):
        adamw(w, w, (w, w), 0, 0.1, AdamW())


def test_biases_and_norms_are_not_decayed_and_factors_count():
    names = ["x.dense.weight", "x.dense.bias", "x.LayerNorm.weight", "vocab_layer_norm.weight", "x.scores"]
    own = {name: np.ones(2) for name in names}
    zeros = {name: np.zeros(2) for name in names}
    Optimizer(AdamW(decay=0.5)).update(own, zeros, moments(own), 1, 0.1)
    assert {name: x[0] for name, x in own.items()} == dict.fromkeys(names, 1.0) | {"x.dense.weight": 0.95}
    twice = {name: np.ones(2) for name in names[-2:]}
    Optimizer(AdamW(eps=0.0), {"x.scores": 2.0}).update(twice, twice | {}, moments(twice), 1, 0.25)
    assert [x[0] for x in twice.values()] == [0.75, 0.5]
    with pytest.raises(ValueError, match="gradients has y, which is no parameter"):
        Optimizer(AdamW()).update(own, {"y": zeros["x.scores"]}, moments(own), 1, 0.1)


def test_schedules():
    assert [schedule.linear(10, 4)(s) for s in (0, 1, 4, 7, 10, 11)] == [0, 0.25, 1, 0.5, 0, 0]
    assert [schedule.linear(4)(s) for s in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [schedule.constant(2)(s) for s in range(4)] == [0, 0.5, 1, 1]
    with pytest.raises(ValueError, match="warmup is 5; need 0 to 4"):
        schedule.linear(4, 5)
    with pytest.raises(ValueError, match="warmup is -1"):
        schedule.constant(-1)


def check_clip(act):
    g = {"a": np.array([3.0, 0.0], np.float32), "b": np.array([[-4.0]], np.float32)}
    act(g, clip.global_norm(g), 2.5)
    assert [x.tolist() for x in g.values()] == [[1.5, 0.0], [[-2.0]]]
    act(g, clip.global_norm(g), 2.5)
    act(g, clip.global_norm(g), 9.0)
    assert [x.tolist() for x in g.values()] == [[1.5, 0.0], [[-2.0]]]


def test_clip():
    check_clip(clip.clip)
    tiny = {"a": np.full(2**12, 1e-3, np.float32), "b": np.array([1e20], np.float32)}
    assert clip.global_norm(tiny) == pytest.approx(float(np.float32(1e20)), rel=1e-15)  # f32 would overflow
    assert np.isnan(clip.global_norm({"a": np.array([np.inf])}))
    with pytest.raises(ValueError, match="most is 0"):
        clip.clip({}, 1.0, 0.0)


# --- batches ---------------------------------------------------------------------------------------------------------


def check_batches(make):
    """Each row once, full batches but one, little padding, another order each epoch, the same for the same epoch."""
    lengths = RNG.integers(2, 50, 1003).tolist()
    first = make(lengths, 8, 5, 0)
    assert sorted(i for rows in first for i in rows) == list(range(1003))
    assert sorted(map(len, first)) == [3] + [8] * 125
    assert first == make(lengths, 8, 5, 0)
    assert first not in (make(lengths, 8, 5, 1), make(lengths, 8, 6, 0))
    padded = sum(len(rows) * max(lengths[i] for i in rows) for rows in first)
    assert padded < 1.1 * sum(lengths)
    longest = [max(lengths[i] for i in rows) for rows in first]
    assert longest not in (sorted(longest), sorted(longest)[::-1])
    assert [rows for rows in first if rows != sorted(rows)]


def test_batches():
    check_batches(batches.batches)
    with pytest.raises(ValueError, match="size is 0"):
        batches.batches([1], 0, 0, 0)


def test_streams_differ():
    draws = [batches.stream(*key).random() for key in [(0, 1, 0), (0, 2, 0), (0, 1, 1), (1, 1, 0)]]
    assert len(set(draws)) == 4


# --- the loop --------------------------------------------------------------------------------------------------------


def run(job=None, settings=child.SETTINGS, state=None):
    return list(loop.train(job or child.job(), settings, state or child.start()))


def test_the_loop_learns_and_says_so():
    events = run()
    assert [p.state.step for p in events if isinstance(p, loop.Evaluated)] == [8, 16, 24, 32, 40]
    steps = [p for p in events if isinstance(p, loop.Updated)]
    assert [p.state.step for p in steps] == list(range(1, 41))
    assert [p.state.step for p in steps if p.ends_epoch] == [8, 16, 24, 32, 40]
    assert np.mean([p.loss for p in steps[-8:]]) < np.mean([p.loss for p in steps[:8]]) / 2
    last = events[-1].state
    assert last.extra["seen"] == 40
    assert [row["epoch"] for row in last.history] == [1, 2, 3, 4, 5]
    assert steps[0].rate == 0 and steps[4].rate == 0.05  # noqa: PT018


def check_accumulation(train):
    """Two batches an update are one batch of all their rows, if the loss is a mean over rows."""
    job = replace(child.job(), gradients=lambda p, rows, _: child.gradients(p, rows, np.random.default_rng(0)))
    apart = next(train(replace(job, batches=lambda e: [[0, 1], [0, 1]]), child.SETTINGS, child.start()))
    once = next(train(replace(job, batches=lambda e: [[0, 1]]), child.SETTINGS, child.start()))
    assert apart.loss == once.loss
    assert apart.norm == once.norm


def test_accumulation():
    check_accumulation(loop.train)


def test_a_loss_that_is_not_finite_stops(tmp_path):
    def broken(p, rows, generator):
        loss, g = child.gradients(p, rows, generator)
        return (loss, g) if p["seen"] < 5 else (np.nan, g)

    keeping = Keeping(tmp_path / "c", child.RUN, 2)
    job = replace(child.job(), gradients=broken, first_bad=lambda *_: "layer.0.q")
    with pytest.raises(
        loop.Diverged, match=r"update 6: the loss is nan; layer.0.q was .*c has the state after update 4"
    ):
        run_training(job, child.SETTINGS, child.start(), keeping, lambda p: None)
    assert checkpoint.load(keeping.path, child.RUN, child.start()).step == 4

    def infinite(p, rows, generator):
        return 1.0, {"a.bias": np.array([np.inf], np.float32)}

    with pytest.raises(loop.Diverged, match=r"update 1: the gradient of a.bias is not finite"):
        run(replace(child.job(), gradients=infinite))
    with pytest.raises(ValueError, match="an epoch has 0 batches"):
        run(replace(child.job(), batches=lambda epoch: []))


# --- checkpoints -----------------------------------------------------------------------------------------------------


def stopped(folder, after=11):
    keeping = Keeping(folder / "c", child.RUN, 100)
    seen = []
    with pytest.raises(Stopped, match="stopped after update 11; saved in"):
        run_training(child.job(), child.SETTINGS, child.start(), keeping, seen.append, lambda: len(seen) == after + 1)
    return keeping.path


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    whole = run()[-1].state
    rest = run(state=checkpoint.load(stopped(tmp_path), child.RUN, child.start()))
    assert len(rest) == 29 + 4
    again = rest[-1].state
    for part in (lambda s: s.parameters, lambda s: s.moments.first, lambda s: s.moments.second, lambda s: s.extra):
        one, two = ({name: x.tobytes() for name, x in part(state).items()} for state in (whole, again))
        assert one == two
    assert whole.history == again.history


def test_an_evaluation_that_is_interrupted_begins_anew(tmp_path):
    def interrupted(arrays):
        raise Interrupted

    keeping = Keeping(tmp_path / "c", child.RUN, 100)
    with pytest.raises(Stopped, match="stopped after update 8; saved in"):
        run_training(replace(child.job(), evaluate=interrupted), child.SETTINGS, child.start(), keeping, id)
    kept = checkpoint.load(keeping.path, child.RUN, child.start())
    assert (kept.step, kept.history) == (8, ())
    assert run(state=kept)[-1].state.history == run()[-1].state.history


def test_another_runs_or_a_damaged_checkpoint_is_refused(tmp_path):
    path = stopped(tmp_path)
    with pytest.raises(ValueError, match=r"is of another run: its seed is 3, this one's 4"):
        checkpoint.load(path, child.RUN | {"seed": 4}, child.start())
    with pytest.raises(ValueError, match=r"its dropout is None, this one's 0.1"):
        checkpoint.load(path, child.RUN | {"dropout": 0.1}, child.start())
    other = child.start()
    other.parameters["a.bias"] = np.zeros(8, np.float32)
    with pytest.raises(ValueError, match=r"parameters have a.bias as .*7.*; need .*8"):
        checkpoint.load(path, child.RUN, other)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its digest is not that of its contents"):
        checkpoint.load(path, child.RUN, child.start())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"step": "7"}, "has step '7'; need int"),
        ({"step": -1}, "has step -1; need 0 or more"),
        ({"history": None}, "has history None; need list"),
        ({"run": []}, r"has run \[\]; need dict"),
    ],
)
def test_a_header_that_cannot_be(tmp_path, change, error):
    header = {"version": 1, "step": 0, "losses": 0.0, "history": [], "run": child.RUN} | change
    header["sha256"] = sealed.digest(header, {})
    sealed.save({}, tmp_path / "c", {checkpoint.KIND.key: json.dumps(header)})
    with pytest.raises(ValueError, match=error):
        checkpoint.load(tmp_path / "c", child.RUN, child.start())


FULL = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
import training_child as child
from pathlib import Path
from refimpl.models.training import checkpoint
path = Path({path!r})
checkpoint.save(child.start(), child.RUN, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    checkpoint.save(child.start()._replace(step=7), child.RUN, path)
except OSError as error:
    print(error)
print(checkpoint.load(path, child.RUN, child.start()).step, [p.name for p in path.parent.iterdir()])
"""


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of files stands for the disk."""
    script = FULL.format(tests=str(Path(__file__).parent), path=str(tmp_path / "c"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    error, kept = done.stdout.splitlines()
    assert "the checkpoint of update 7 cannot be written" in error
    assert error.endswith("the checkpoint before it stays")
    assert kept == "0 ['c']"


# --- kills -----------------------------------------------------------------------------------------------------------


def killed(folder, kills, seed):
    """The bytes of the end of a training that was killed so often: after a few updates and up to two more's time."""
    draw, command = np.random.default_rng(seed), [sys.executable, child.__file__, str(folder), "0.005"]
    starts = []
    for kill in range(kills + 1):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            starts.append(int(process.stdout.readline()))
            if kill < kills:
                for _ in range(draw.integers(1, 1 + 30 // kills)):
                    process.stdout.readline()
                time.sleep(draw.uniform(0, 0.03))
                os.kill(process.pid, signal.SIGKILL)
            process.stdout.read()
        assert process.returncode == (-signal.SIGKILL if kill < kills else 0)
    assert starts == sorted(starts)
    assert 0 < starts[-1] < 40
    return (folder / "final").read_bytes()


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_training_ends_with_the_same_bytes(tmp_path, kills):
    child.main(tmp_path, 0.0)
    whole = (tmp_path / "final").read_bytes()
    (tmp_path / "again").mkdir()
    assert killed(tmp_path / "again", kills, kills) == whole
