"""Rung 7: which split of the cores is best. Oracles: splits and rows written by hand; callers that are counted."""

import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rich.console import Console
from test_2_registers import NEEDS_JIT
from test_cli import one_line, packed, refimpl  # noqa: F401

from refimpl.models.bench.measuring import Samples
from refimpl.models.runtime.cores import cores
from refimpl.models.tune import measure
from refimpl.models.tune.show import Report, show, to_json
from refimpl.models.tune.splits import Row, Split, quickest, splits


def row(batch, rate, median, p90, split=Split(2, 1)):  # noqa: B008
    return Row(split, batch, rate, Samples(median, median, p90, 10))


ROWS = [row(1, 100, 0.010, 0.011), row(2, 150, 0.012, 0.020), row(4, 180, 0.015, 0.030), row(8, 170, 0.009, 0.040)]


def check_fastest(fastest):
    """Among the rows of which 90 % are within the limit, the most texts a second."""
    for limit, best in ((0.012, 0), (0.020, 1), (0.025, 1), (0.030, 2), (1.0, 2), (None, 2)):
        assert fastest(ROWS, limit) == ROWS[best]
    assert fastest(ROWS, 0.0109) is None
    assert fastest([], None) is None


def test_the_least_latency_is_the_90th_percentile():
    assert quickest(ROWS) == ROWS[0]


@pytest.mark.parametrize(
    ("cores", "most", "want"),
    [
        (1, 1, [(1, 1)]),
        (2, 2, [(2, 1), (1, 2)]),
        (3, 3, [(3, 1), (1, 2), (1, 3)]),
        (8, 8, [(8, 1), (4, 2), (2, 4), (1, 8)]),
        (8, 3, [(8, 1), (4, 2)]),
        (12, 64, [(12, 1), (6, 2), (3, 4), (1, 8), (1, 12)]),
    ],
)
def test_splits(cores, most, want, monkeypatch):
    monkeypatch.setattr(os, "fork", None, raising=False)
    found = splits(cores, most)
    assert [split[:2] for split in found if not split.processes] == want
    assert [split[:2] for split in found if split.processes] == [pair for pair in want if pair[0] > 1]
    monkeypatch.delattr(os, "fork")
    assert [split[:2] for split in splits(cores, most)] == want


class Counted:
    """Instances that sleep, and count how many batches they have at once."""

    def __init__(self, count, seconds=0.002):
        self.count, self.seconds, self.now, self.most = count, seconds, 0, 0
        self.lock, self.pool = threading.Lock(), ThreadPoolExecutor(8)

    def submit(self, *batch):
        def work():
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(self.seconds)
            with self.lock:
                self.now -= 1
            return batch[0]

        return self.pool.submit(work)


def test_every_instance_always_has_one_batch():
    three = Counted(3)
    with three.pool:
        taken, whole = measure.saturate(three, [(np.ones(1),), (np.zeros(1),)], 0.1)
    assert three.most == 3
    assert min(taken) >= 0.002
    assert 0.1 <= whole < sum(taken) < 3 * whole


def test_a_slow_batch_is_measured_all_the_same():
    one = Counted(1, 0.05)
    with one.pool:
        taken, whole = measure.saturate(one, [(np.ones(1),)], 0.001)
    assert len(taken) == 1
    assert whole >= taken[0] >= 0.05


def test_wrong_bits_are_not_timed():
    class Wrong:
        count = 2

        def run(self, batches):
            return [np.ones(3, np.float32) for _ in batches]

    measure.check(Wrong(), (np.ones(3),), np.ones(3, np.float32))
    with pytest.raises(RuntimeError, match="disagree about a batch: nothing is timed"):
        measure.check(Wrong(), (np.ones(3),), np.ones(3, np.float32) + np.float32(2**-23))


def shown(limit):
    screen = Console(file=io.StringIO(), width=100)
    many = [row(2**i, 10.0**i, 3.0**i / 1e3, 4.0**i / 1e3, split) for split in splits(64, 64) for i in range(6)]
    show(Report("a model", 64, 128, limit, many), screen)
    out = screen.file.getvalue()
    assert max(map(len, out.splitlines())) <= 100
    return out


def test_the_table_and_what_to_use():
    out = shown(0.0041)
    assert (
        "Best within 4.1 ms: 10 texts a second, 90 % of the batches in 4 ms\n    Instances(packed, 64, threads=1)"
        in out
    )
    assert "Best without a limit: 100,000 texts a second, 90 % of the batches in 1.02e+03 ms" in out
    assert "# batches of 32" in out
    assert "Nothing is within 0.5 ms; the quickest: 1 texts a second, 90 % of the batches in 1 ms" in shown(0.0005)
    assert to_json(Report("a model", 2, 8, 0.001, ROWS))["best_within_limit"] is None


@NEEDS_JIT
def test_tune(refimpl, packed, monkeypatch):  # noqa: F811
    """No batch after one that took longer than LONGEST."""
    monkeypatch.setattr(measure, "LONGEST", 0)
    status, out, err = refimpl("tune", packed, "--tokens", 8, "--seconds", 0.01, "--limit", 1e6, "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert (report["tokens"], report["cores"], report["limit_ms"]) == (8, len(cores()), 1e6)
    found = [(row["instances"], row["threads"], row["processes"], row["batch"]) for row in report["rows"]]
    assert found == [(*split, 1) for split in splits(len(cores()), len(cores()))]
    assert report["best"] == report["best_within_limit"] == max(report["rows"], key=lambda row: row["texts_per_second"])
    for one in report["rows"]:
        assert one["runs"] >= measure.ROUNDS * one["instances"]
        assert 0 < one["median_ms"] <= one["p90_ms"]
        assert one["texts_per_second"] <= 1.01e3 * one["instances"] * one["batch"] / one["median_ms"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", 1], "--tokens is 1; need 2 to 16, the model's positions"),
        (["--tokens", 17], "--tokens is 17; need 2 to 16"),
        (["--limit", 0], "--limit is 0; need more than 0"),
        (["--seconds", "nan"], "--seconds is nan; need more than 0"),
        (["--density", 0.5], "is packed already, so that --density cannot change it"),
        (["--synthetic"], "--synthetic makes a model, but"),
    ],
)
def test_mistakes(one_line, packed, arguments, message):  # noqa: F811
    assert message in one_line("tune", packed, *arguments)
