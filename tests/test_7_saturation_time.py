"""Rung 7: what the remedies cost in time. What is timed is checked first; sums and ratios are those of the parts."""

import json

import numpy as np
import pytest
import tiny
from test_7_saturation import files, run, small  # noqa: F401

from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.models import compress
from refimpl.models.bench import measuring
from refimpl.models.bert import linears
from refimpl.models.saturation import timing
from refimpl.models.saturation.layouts import BLOCKS, DENSE, DENSE_AND_BLOCKS, LAYOUTS
from refimpl.models.saturation.remedies import offered, treatment
from refimpl.models.saturation.run import batched
from refimpl.models.saturation.steps import Request, count_steps, examine
from refimpl.models.saturation.timing import Cost, timed

Samples = measuring.Samples


def at_once(runs, seconds, threads):
    """In the place of a clock: each run once; a product takes 2 s, moves half a second."""
    for product in runs.values():
        product()
    return {key: Samples(9.0, 0.5 if key[1] else 2.0, 9.0, 1) for key in runs}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_times_are_of_products_and_moves(small, layout, monkeypatch):  # noqa: F811
    monkeypatch.setattr(timing, "in_turns", at_once)
    done = {}
    found = timed(small, layout, batched(small.quantized.tokenizer, tiny.TEXTS), done)
    assert found.costs.keys() == offered(layout).keys()
    assert found.kernel.split()[1] == timing.KERNELS[layout.name].name
    assert found.tokens > 20
    for name, cost in found.costs.items():
        treated = treatment(small, layout, name, done).values()
        share = sum(t.gathers or t.layout is DENSE_AND_BLOCKS for t in treated) / 4 / len(treated)
        assert cost == Cost(1 + share, share), name
    assert (found.costs["split"].moves > 0) == (layout is DENSE)


def wrong_stored(treated):
    slots = treated.stored
    return treated._replace(stored=slots._replace(codes=np.roll(slots.codes, 1, 1)))


def wrong_columns(treated):
    """What a gather in the wrong order would be."""
    return treated._replace(stored=treated.stored._replace(columns=np.roll(treated.stored.columns, 1)))


@pytest.mark.parametrize("change", [wrong_stored, wrong_columns])
def test_a_wrong_product_is_not_timed(small, change, monkeypatch):  # noqa: F811
    monkeypatch.setattr(timing, "in_turns", at_once)
    done = {}
    right = treatment(small, DENSE, "split", done)
    done["split"] = right | {"layer.1.q": change(right["layer.1.q"])}
    with pytest.raises(RuntimeError, match=r"of layer\.1\.q under split is not what its slots say"):
        timed(small, DENSE, batched(small.quantized.tokenizer, tiny.TEXTS), done)


def test_a_kernel_that_does_not_saturate_is_not_timed(small, monkeypatch):  # noqa: F811
    monkeypatch.setitem(timing.KERNELS, "dense", GEMM)
    with pytest.raises(RuntimeError, match=r"product of layer\.0\.q under none is not what"):
        timed(small, DENSE, batched(small.quantized.tokenizer, tiny.TEXTS), {})


@pytest.fixture
def hasty(monkeypatch):
    """A clock that is asked seldom."""
    monkeypatch.setattr(measuring, "TURN", 1e-4)
    monkeypatch.setattr(timing, "SECONDS", 1e-3)


@pytest.mark.usefixtures("hasty")
def test_the_command(files, capsys):  # noqa: F811
    arguments = "saturation", files / "small", "--text", files / "texts", "--layout", "dense", "--time"
    run(*arguments)
    said = capsys.readouterr().out
    assert "of which" in said
    assert "gemm_u8s8s32_pair_saturating, one thread" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 100
    run(*arguments, "--json")
    report = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in report["remedies"]}
    assert report["kernel"].endswith("gemm_u8s8s32_pair_saturating")
    assert rows["none"]["time"] == 1.0
    assert rows["none"]["moves"] == 0 < rows["split"]["moves"] < rows["split"]["time"]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("layout", [DENSE, BLOCKS], ids=["dense", "4x1"])
def test_every_step_is_counted(small, layout):  # noqa: F811
    request = Request("small", tiny.TEXTS, True, layout=layout.name, time=True)
    said = []
    examine(compress.pack(small.quantized), request, said.append)
    assert len(said) == count_steps(request, len(linears(small.quantized.model)))
