"""Rung 6: watching the kernel of tiles and the one of bf16: what only they have."""

import re
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from rich.console import Console
from test_6_explain import check_outputs, needs_browser, seen

from refimpl.isa.amx import configuration, ldtilecfg, tdpbusd, tileloadd, tilestored
from refimpl.kernels.catalog import WATCHED
from refimpl.kernels.simd.provenance import numbers
from refimpl.kernels.simd.trace import Place, Register, functions, instructions, trace
from refimpl.models.explain import example, page, terminal
from refimpl.models.explain.story import story

AMX, BF16 = "gemm_u8s8s32_amx", "gemm_bf16"
told = cache(lambda name: story(WATCHED[name]))


# --- tiles -----------------------------------------------------------------------------------------------------------


def load(state, x, w, at):
    """Tiles 1 and 2."""
    return tileloadd(tileloadd(state, 1, x, at, 9), 2, w, at, 4)


def tiny(x, w, out):
    """Two products on top of each other, after each of two configurations."""
    for at in (0, 4):
        state = ldtilecfg(configuration((2, 2, 1), (4, 4, 4)))
        state = tdpbusd(load(state, x, w, at), 0, 1, 2)
        state = tdpbusd(state, 0, 1, 2)
        tilestored(state, 0, out, at, 3)


def test_trace_of_tiles():
    x, w, out = np.arange(17, dtype=np.uint8), np.arange(-4, 4, dtype=np.int8), np.zeros(8, np.int32)
    steps = trace(tiny, x, w, out)
    names = ["configuration", "ldtilecfg", "tileloadd", "tileloadd", "tdpbusd", "tdpbusd", "tilestored"]
    assert [step.instruction for step in steps] == 2 * names
    assert instructions(tiny) == set(names)
    assert [function.__name__ for function in functions(tiny)] == ["load", "tiny"]
    for start, at in ((0, 0), (7, 4)):
        image, config, first, second, dot, again, store = steps[start : start + 7]
        assert config.operands[0].value is image.result
        assert first.operands == (Place("x", at, 4, 2, 9), 9)
        assert first.result.tolist() == [[at + i for i in range(4)], [at + 9 + i for i in range(4)]]
        assert second.operands == (Place("w", at, 4), 4)
        assert (first.tile, second.tile, dot.tile, store.tile) == (1, 2, 0, None)
        assert dot.operands[0] == 0  # as ldtilecfg leaves it
        assert [register.step for register in dot.operands[1:]] == [start + 2, start + 3]
        assert [register.step for register in again.operands] == [start + 4, start + 2, start + 3]
        product = first.result.astype(np.int32) @ second.result[0].astype(np.int32)
        assert dot.result.tolist() == product[:, None].tolist()
        assert again.result.tolist() == (2 * product)[:, None].tolist()
        assert store.written == Place("out", at, 1, 2, 3)
        assert isinstance(store.operands[0], Register)
        assert [site.function for site in first.sites] == ["tiny", "load"]
    assert out[[0, 3]].tolist() == steps[5].result.ravel().tolist()
    assert str(steps[2].operands[0]) == "2 rows, 9 apart, from x[0 … 3] on"


@pytest.mark.parametrize("shape", [(33, 3, 9), (3, 33, 70), (17, 17, 129)], ids=str)
def test_outputs_of_several_tiles(shape):
    """Second halves of blocks, second blocks, and tiles that are added to."""
    check_outputs(example.run(WATCHED[AMX], shape))


def test_the_configuration_is_said():
    image, config, *_ = told(AMX)["steps"]
    assert "two bytes each: 16 0 0 0 64 0 16 0; from byte 48 on their rows: 2 0 0 0 2 0 16 0" in image["why"]
    for said in ("tile 0 has 2 rows of 16 bytes", "tile 4 has 2 rows of 64 bytes", "tile 6 has 16 rows of 16 bytes"):
        assert said in config["why"]
    assert "tile 1" not in config["why"]


def test_tiles_in_the_story():
    results = {step["tile"]: step["result"] for step in told(AMX)["steps"] if step["tile"] is not None}
    assert {tile: (x["dtype"], x["rows"], x["per"], len(x["values"])) for tile, x in results.items()} == {
        4: ("uint8", 2, 4, 128),
        6: ("int8", 16, 4, 256),
        0: ("int32", 2, 1, 8),
    }
    assert results[0]["names"] == [f"acc[{n},{m}]" for n in range(2) for m in range(4)]
    weights = np.array(results[6]["names"]).reshape(16, 4, 4)
    for m, k in np.ndindex(4, 7):
        assert weights[k // 4, m, k % 4] == f"w[{m},{k}]"
    assert np.count_nonzero(weights) == 28


def test_tiles_on_a_terminal(capsys):
    terminal.show(told(AMX), Console(width=100, highlight=False, emoji=False))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    first = lines.index("r3 int8      | 10  11  12  13|-20 -21 -22 -23| 30  31  32  33|-40 -41 -42 -43|")
    assert lines[first + 1 : first + 3] == [
        "row 1 | 14  15  16   0|-24 -25 -26   0| 34  35  36   0|-44 -45 -46   0|",
        "… 14 more rows of 0",
    ]


@needs_browser
def test_tiles_on_a_page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page.page(told(AMX)), "utf-8")
    dom = seen(path, "#step=3", tmp_path)
    registers, memory = dom[dom.index('id="registers"') :].split('id="memory"')
    for place in (registers, memory.split("</section>")[0]):
        assert len(re.findall(r'title="-?\d+ is w\[\d,\d\]"', place)) == 28
        assert "… 14 more lines of 16 bytes: padding" in place
    assert "tile 6, 16 rows of 16" in registers
    dom = seen(path, "#step=5", tmp_path)
    assert 'title="-6951 is acc[1,3]"' in dom[dom.index('id="memory"') :].split("</section>")[0]


# --- bf16 ------------------------------------------------------------------------------------------------------------


def test_bf16_operands_are_exact_and_readable():
    run = example.run(WATCHED[BF16], (4, 2, 7))
    assert numbers(run.a).tolist() == [[10.0 * n + k for k in range(7)] for n in (1, 2)]
    assert numbers(run.w)[:3].tolist() == [[tens + np.sign(tens) * k for k in range(7)] for tens in (10, -20, 30)]
    assert numbers(run.w)[3].tolist() == [2.0**22, -41, 2.0**22, -43, 2.0**22, -45, 2.0**22]


def test_bf16_are_shown_as_numbers():
    values = told(BF16)["arrays"]["values"]
    assert values["dtype"] == "bf16"
    assert list(zip(values["names"], values["values"], values["slots"], strict=True))[:8] == [
        *(("w[0,0]", 10, 0), ("w[0,1]", 11, 1), ("w[1,0]", -20, 0), ("w[1,1]", -21, 1)),
        *(("w[2,0]", 30, 0), ("w[2,1]", 31, 1), ("w[3,0]", 4194304, 0), ("w[3,1]", -41, 1)),
    ]


def test_what_f32_cannot_hold_is_found():
    """The lossy lanes are those where a sum in exact rationals, from the register before, is not the f32 one."""
    run, lossy = example.run(WATCHED[BF16]), []
    for step in run.steps:
        lanes = []
        if step.instruction == "vdpbf16ps":
            acc, a, w = (numbers(register.value).tolist() for register in step.operands)
            for lane in range(16):
                total = Fraction(acc[lane])
                for i in (2 * lane + 1, 2 * lane):
                    exact = Fraction(np.float32(total).item()) + Fraction(a[i]) * Fraction(w[i])
                    total = Fraction(float(np.float32(float(exact))))
                    lanes += [lane] if total != exact and lane not in lanes else []
                assert total == step.result[lane].item()
        lossy.append(lanes)
    assert [step["lossy"] for step in told(BF16)["steps"]] == lossy
    assert any(lossy)
    assert all(lanes in ([], [3]) for lanes in lossy)
    differing = [output["name"] for output in told(BF16)["outputs"] if output["value"] != output["exact"]]
    assert differing == ["acc[0,3]", "acc[1,3]"]


def test_the_chain_is_said_upper_first():
    step = next(step for step in told(BF16)["steps"] if step["lossy"])
    assert step["lanes"][0] == "acc[0,0]: 0 + 11·11 = 121, + 10·10 = 221"
    assert step["lanes"][3] == "acc[0,3]: 0 + 11·(-41) = -451, + 10·4194304 = 41942589 -> 41942588"
    outputs = {output["name"]: output for output in told(BF16)["outputs"]}
    assert outputs["acc[0,0]"]["sum"] == "11·11 + 10·10 + 13·13 + 12·12 + 15·15 + 14·14 + 16·16"


@needs_browser
def test_bf16_on_a_page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page.page(told(BF16)), "utf-8")
    dom = seen(path, "#step=24", tmp_path)
    registers, memory = dom[dom.index('id="registers"') :].split('id="memory"')
    for place in (registers, memory.split("</section>")[0]):
        cells = re.findall(r'class="cell (s\d)?[^"]*" title="(-?\d+) is w\[(\d),(\d)\]"', place)
        assert cells == [
            (f"s{k}", value, str(m), str(k))
            for m, row in enumerate([("10", "11"), ("-20", "-21"), ("30", "31"), ("4194304", "-41")])
            for k, value in enumerate(row)
        ]
    legend = re.search(r'<div class="key soft">.*?</div>', dom, re.S)[0]
    assert re.findall(r'<span class="s(\d)"( hidden="")?', legend) == [
        ("0", ""),
        ("1", ""),
        ("2", ' hidden=""'),
        ("3", ' hidden=""'),
    ]
