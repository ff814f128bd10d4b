"""Rung 6: watching a kernel. A trace is what ran, its provenance is exact, and the page and the terminal show it."""

import html.parser
import inspect
import json
import re
import shutil
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from rich.console import Console
from test_1_arithmetic import equal
from test_2_bf16 import scalar_fma
from test_2_registers import NEEDS_JIT
from test_cli import one_line, refimpl  # noqa: F401

from refimpl import isa
from refimpl.isa.amx import Amx
from refimpl.isa.bf16 import fma_daz_ftz
from refimpl.kernels import cpu
from refimpl.kernels.catalog import KERNELS, OTHERS, WATCHED
from refimpl.kernels.simd import assembly
from refimpl.kernels.simd.instructions.interleave import vpunpcklbw
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu8_store, vpbroadcastd
from refimpl.kernels.simd.provenance import DOTS, Item, Pair, Product, met, numbers, provenance
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE, kernel, part
from refimpl.kernels.simd.trace import Place, Register, functions, instructions, trace
from refimpl.models.explain import example, listing, page, sums, terminal
from refimpl.models.explain.flow import flow
from refimpl.models.explain.story import story

each_kernel = pytest.mark.parametrize("name", WATCHED)
SATURATING = [name for name in WATCHED if example.saturates(WATCHED[name])]
EXACT = [name for name in WATCHED if name not in [*SATURATING, "gemm_bf16"]]
SHAPES = [(1, 1, 1), (4, 2, 7), (5, 7, 9), (64, 3, 4), (9, 64, 5)]
traced = cache(lambda name, shape=example.SHAPE: example.run(WATCHED[name], shape))
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


# --- the trace -------------------------------------------------------------------------------------------------------


@part
def copied(x, at):
    return vmovdqu8_load(x, at)


@kernel
def tiny(x, w, out):
    """A kernel of two parts and a loop."""
    for i in range(2):
        vmovdqu8_store(out, 64 * i, vpunpcklbw(copied(x, i), vpbroadcastd(w, i)))


def traced_tiny():
    x, w, out = np.arange(65, dtype=np.uint8), np.arange(100, 105, dtype=np.uint8), np.zeros(128, np.uint8)
    return trace(tiny, x, w, out), (x, w, out)


def test_trace_of_a_tiny_kernel():
    steps, (x, w, out) = traced_tiny()
    want = np.zeros(128, np.uint8)
    tiny(x, w, want)
    equal(out, want)
    assert [step.instruction for step in steps] == 2 * ["vmovdqu8_load", "vpbroadcastd", "vpunpcklbw", "vmovdqu8_store"]
    load, broadcast, unpack, store = steps[4:]
    assert load.operands == (Place("x", 1, 64),)
    assert str(load.operands[0]) == "x[1 … 64]"
    assert broadcast.operands == (Place("w", 1, 4),)
    assert [register.step for register in unpack.operands] == [4, 5]
    assert store.written == Place("out", 64, 64)
    assert (store.result, load.written) == (None, None)
    assert isinstance(store.operands[1], Register)
    assert store.operands[1].value is unpack.result


def test_sites_and_text_are_the_source():
    steps, _ = traced_tiny()
    first = inspect.getsourcelines(tiny.emulated)[1]
    assert [(site.function, site.line - first) for site in steps[0].sites[:-1]] == [("tiny", 4)]
    assert steps[0].sites[-1].function == "copied"
    assert [step.text for step in steps[:4]] == [
        "vmovdqu8_load(x, at)",
        "vpbroadcastd(w, i)",
        "vpunpcklbw(copied(x, i), vpbroadcastd(w, i))",
        "vmovdqu8_store(out, 64 * i, vpunpcklbw(copied(x, i), vpbroadcastd(w, i)))",
    ]
    assert steps[3].line == first + 4
    assert instructions(tiny) == {"vmovdqu8_load", "vpbroadcastd", "vpunpcklbw", "vmovdqu8_store"}
    assert [function.__name__ for function in functions(tiny)] == ["copied", "tiny"]


FOREIGN = np.zeros(64, np.uint8)


@kernel
def wrong(x):
    """Loads from an array of its own."""
    vmovdqu8_load(FOREIGN, x.size - 1)


def test_a_foreign_array_is_refused():
    with pytest.raises(RuntimeError, match="an array that no instruction made and no caller gave"):
        trace(wrong, np.zeros(1, np.uint8))


def test_tracing_leaves_the_kernel_alone():
    before = dict(tiny.emulated.__globals__)
    traced_tiny()
    assert tiny.emulated.__globals__["vmovdqu8_load"] is before["vmovdqu8_load"]


@each_kernel
@each_shape
def test_the_product_traced_is_the_oracle(name, shape):
    run = traced(name, shape)
    equal(run.product, WATCHED[name].oracle(run.a, run.w))
    equal(run.product, WATCHED[name].emulated(run.a, WATCHED[name].pack(run.w)))


@each_kernel
def test_every_result_is_what_the_instruction_makes_again(name):
    run = traced(name)
    memory = {key: value.copy() for key, value in run.arguments.items() if isinstance(value, np.ndarray)}
    for step in run.steps:
        arguments = []
        for operand in step.operands:
            if isinstance(operand, Place):
                arguments += [memory[operand.array], operand.at]
            elif isinstance(operand, Register):
                equal(operand.value, run.steps[operand.step].result)
                arguments.append(operand.value)
            else:
                arguments.append(operand)
        again = step.meaning(*arguments)
        meaning = inspect.unwrap(step.meaning)
        assert getattr(isa, step.instruction, meaning) is meaning
        if isinstance(step.result, np.ndarray):
            equal(again, step.result)
        elif isinstance(step.result, Amx):
            assert again[:4] == step.result[:4]
            equal(again.tiles, step.result.tiles)
        else:
            assert again == step.result


# --- provenance ------------------------------------------------------------------------------------------------------


def recomputed(lanes, dtype):
    """The register that lanes stand for: the sums of integer terms, the chains of f32 ones."""
    if isinstance(lanes[0], Item):
        return [lane.value for lane in lanes]
    if dtype != np.float32:
        return [sum(term.value for term in terms) for terms in lanes]
    acc = np.zeros(len(lanes), np.float32)
    for products in zip(*lanes, strict=True):
        a, w = np.array([(p.a.value, p.w.value) for p in products], np.float32).T
        acc = fma_daz_ftz(acc, a, w)
    return acc.tolist()


@each_kernel
@each_shape
def test_every_register_is_recomputed_from_its_provenance(name, shape):
    run = traced(name, shape)
    for step, lanes in zip(run.steps, run.provenance.registers, strict=True):
        if lanes is not None:
            assert recomputed(lanes, step.result.dtype) == numbers(step.result).ravel().tolist()
        elif isinstance(step.result, np.ndarray):
            assert step.instruction in ("ones_s16", "configuration")


@each_kernel
@each_shape
def test_every_output_has_each_product_once(name, shape):
    check_outputs(traced(name, shape))


def check_provenance(follow):
    """follow: steps -> Provenance. On a kernel that interleaves, one that saturates, one of bf16 and one of tiles."""
    for name, shape in [
        ("bsgemm_4x1_u8s8s32", (5, 3, 7)),
        ("gemm_u8s8s32_pair_saturating", (5, 3, 7)),
        ("gemm_bf16", (5, 6, 7)),  # the fifth token's bits depend on the order
        ("gemm_u8s8s32_amx", (17, 3, 65)),
    ]:
        run = traced(name, shape)
        check_outputs(run._replace(provenance=follow(run.steps)))


def bits(value):
    return int(np.float32(value).view(np.uint32))


def chain(products):
    """The oracle's order and rounding, in exact rationals."""
    acc = 0
    for p in products:
        acc = scalar_fma(acc, bits(p.a.value), bits(p.w.value))
    return np.uint32(acc).view(np.float32)


def check_outputs(run):
    """The (k, a, w) of an output, read off its provenance, are the row of a and the live part of the row of w."""
    outputs = {element: place for place, element in run.names.items() if element.matrix == "acc"}
    assert len(outputs) == run.product.size
    a_values, w_values = numbers(run.a), numbers(run.w)
    for (n, m), result in np.ndenumerate(run.product):
        terms = run.provenance.memory.get(outputs["acc", n, m]) or ()
        assert (chain(terms) if result.dtype == np.float32 else sum(term.value for term in terms)) == result
        products = [p for term in terms for p in (term if isinstance(term, Pair) else (term,))]
        found = []
        for p in products:
            a, w = (run.names.get((item.array, item.at)) for item in (p.a, p.w))
            if a and w:
                assert (a.row, w.row) == (n, m)
                assert a.column == w.column
                assert (p.a.value, p.w.value) == (a_values[a.row, a.column], w_values[w.row, w.column])
                found.append(a.column)
            else:
                assert p.value == 0
        assert sorted(found) == np.flatnonzero(run.w[m]).tolist()


def test_provenance_follows_moves_and_forgets_what_it_does_not_know():
    steps, _ = traced_tiny()
    found = provenance(steps)
    assert found.registers[6][:4] == [Item(1, "x", 1), Item(101, "w", 1), Item(2, "x", 2), Item(102, "w", 2)]
    assert found.memory["out", 65] == Item(101, "w", 1)
    unknown = [step._replace(instruction="other") if step.instruction == "vpbroadcastd" else step for step in steps]
    assert provenance(unknown).registers[2] is None


def test_pair():
    pair = Pair(Product(Item(255), Item(127)), Product(Item(255), Item(127)))
    assert (pair.exact, pair.value, pair.clipped) == (64770, 32767, True)
    assert sums.pair(pair) == "255·127 + 255·127 = 64770 -> 32767"
    fits = Pair(Product(Item(255), Item(64)), Product(Item(255), Item(64)))
    assert (fits.value, fits.clipped) == (32640, False)
    assert sums.pair(fits) == "255·64 + 255·64 = 32640"
    low = Pair(Product(Item(255), Item(-128)), Product(Item(255), Item(-128)))
    assert sums.pair(low) == "255·(-128) + 255·(-128) = -65280 -> -32768"


@pytest.mark.parametrize("name", SATURATING)
def test_the_clipped_pairs_are_found(name):
    """Those that an independent count on the terms of the oracle finds; the exact kernels have none."""
    told = story(WATCHED[name])
    clipped = [(step, lane) for step in told["steps"] for lane in step["lossy"]]
    assert {step["instruction"] for step, _ in clipped} == {"vpmaddubsw"}
    assert "acc[0,0]: 255·127 + 255·127 = 64770 -> 32767" in {step["lanes"][lane] for step, lane in clipped}
    assert any("32767 is the most that a signed 16-bit word holds" in step["why"] for step, _ in clipped)
    assert any("-32768 is the least that a signed 16-bit word holds" in step["why"] for step, _ in clipped)
    sparse = name.startswith("bsgemm")  # it pairs stored columns: 0 and 2, 3 and 5, so the mixed signs do not meet
    clipping = ["acc[0,0]", "acc[0,1]", *(["acc[0,3]"] if sparse else [])]
    assert [output["name"] for output in told["outputs"] if output["clipped"]] == clipping
    for output in told["outputs"]:
        assert bool(output["clipped"]) == (output["value"] != output["exact"])


@pytest.mark.parametrize("name", EXACT)
def test_nothing_clips_in_exact_kernels(name):
    told = story(WATCHED[name])
    assert not any(step["lossy"] for step in told["steps"])
    assert all(output["value"] == output["exact"] for output in told["outputs"])


# --- names and flow --------------------------------------------------------------------------------------------------


@each_kernel
@each_shape
def test_names_are_of_equal_values(name, shape):
    run = traced(name, shape)
    matrices = {"a": run.a, "w": run.w}
    live = {"a": run.a.size, "w": np.count_nonzero(run.w)}
    for matrix, values in matrices.items():
        named = {place: element for place, element in run.names.items() if element.matrix == matrix}
        assert len(set(named.values())) == live[matrix]
        for (array, index), element in named.items():
            assert run.arguments[array][index] == values[element.row, element.column]


@each_kernel
def test_padding_steps_do_not_matter(name):
    """Zero what a step without a result made: no output changes, for it is in no output's terms."""
    run = traced(name)
    flowing = flow(run)
    assert {i for i, step in enumerate(run.steps) if step.written and step.written.array == "out"} & {
        i for i, matters in enumerate(flowing.matters) if matters
    }
    for i, step in enumerate(run.steps):
        if flowing.matters[i]:
            assert all(flowing.matters[x.step] for x in step.operands if isinstance(x, Register))
        elif step.written:
            places = [(step.written.array, step.written.at + j) for j in range(step.written.size)]
            assert not any(place in run.names for place in places)


@each_kernel
def test_slots_are_the_places_in_a_dword(name):
    """Of every product of an activation and a weight, in whatever registers the two met: one slot, that of both."""
    run, seen = traced(name, (4, 2, 8)), 0
    flowing = flow(run)
    for step in run.steps:
        if step.instruction in DOTS:
            registers = [operand.step for operand in step.operands[DOTS[step.instruction] :][:2]]
            per = 4 // run.steps[registers[0]].result.itemsize
            for at in (pair for lane in met(step) for pair in lane):
                items = [run.provenance.registers[register][i] for register, i in zip(registers, at, strict=True)]
                if all((item.array, item.at) in run.names for item in items):
                    assert [flowing.slots[r][i] for r, i in zip(registers, at, strict=True)] == [i % per for i in at]
                    assert at[0] % per == at[1] % per
                    seen += 1
    assert seen == 2 * np.count_nonzero(run.w)


@pytest.mark.parametrize(
    "text", ["", "4,2", "4,2,7,1", "0,1,1", "a,b,c", "-1,2,3", "65,1,1", "64,64,2", "4;2;7", "1.5,2,3"]
)
def test_bad_shapes(text):
    with pytest.raises(
        ValueError, match=re.escape(f"shape is {text}; need M,N,K from 1 to 64 with a product of at most")
    ):
        example.parse_shape(text)


def test_good_shapes():
    assert example.parse_shape("4,2,7") == (4, 2, 7)
    assert example.parse_shape(" 64, 1,64 ") == (64, 1, 64)


# --- the terminal ----------------------------------------------------------------------------------------------------


@each_kernel
def test_terminal(name, capsys):
    terminal.show(story(WATCHED[name]), Console(width=100, highlight=False, emoji=False))
    out = capsys.readouterr().out
    told = story(WATCHED[name])
    shown = set(map(int, re.findall(r"^ {0,3}(\d+) \w", out, re.M)))
    for first, last in re.findall(r"^ {0,3}(\d+) … (\d+)  only padding", out, re.M):
        shown |= set(range(int(first), int(last) + 1))
    assert shown >= set(range(len(told["steps"])))
    assert told["layout"].splitlines()[0] in out
    assert "acc[1,3]" in out
    body = out[out.index("Place in the dword") :]
    assert max(map(len, body.splitlines())) <= 100


# --- the page --------------------------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Tags, attributes and the text of each element that has an id; complains of tags left open."""

    VOID = ("meta", "input", "br")

    def __init__(self, text):
        super().__init__()
        self.attributes, self.open, self.texts, self.styles = [], [], {}, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, key, value or "") for key, value in attributes]
        if tag not in self.VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for tag, name in self.open[-1:]:
            self.texts[name or tag] = self.texts.get(name or tag, "") + data


@each_kernel
def test_page_is_whole_and_needs_nothing_else(name):
    told = story(WATCHED[name])
    text = page.page(told)
    reader = Reader(text)
    assert json.loads(reader.texts["story"]) == json.loads(json.dumps(told))
    assert not [
        found for found in reader.attributes if found[1] in ("src", "href", "srcset", "data", "action", "style")
    ]
    assert not [tag for tag, *_ in reader.attributes if tag in ("link", "img", "iframe", "object", "embed", "base")]
    outside = text.replace(reader.texts["story"], "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|\bimport\b|fetch|XMLHttp|@[A-Z]+@|innerHTML|eval", outside)
    assert ("meta", "http-equiv", "Content-Security-Policy") in reader.attributes
    assert ("html", "lang", "en") in reader.attributes


def test_page_escapes_everything():
    told = story(WATCHED["gemm_u8s8s32"], (1, 1, 1))
    told["kernel"] = told["about"] = "</script><script>alert(1)</script>&amp;<!-- @SCRIPT@ \u2028"
    text = page.page(told)
    assert "alert(1)</script>" not in text
    assert "<!--" not in text
    reader = Reader(text)
    assert json.loads(reader.texts["story"])["kernel"] == told["kernel"]
    assert [tag for tag, key, _ in reader.attributes if tag == "script"] == ["script", "script"]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is on PATH")


def seen(path, fragment, tmp_path, script=""):
    """What the page shows at an address, after a script of a user's doings: the elements' texts by id, and the rest."""
    copy = tmp_path / "seen.html"
    copy.write_text(path.read_text("utf-8").replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *arguments, copy.as_uri() + fragment], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def step_of(dom):
    number = int(re.search(r'<body data-step="(\d+)"', dom)[1])
    assert f'<output id="number" for="slider">step {number} of 0' in dom
    assert len(re.findall(r'aria-current="step"', dom)) == 1
    return number


def key(name):
    return f'document.dispatchEvent(new KeyboardEvent("keydown", {{key: "{name}"}}));'


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page.page(story(WATCHED["gemm_u8s8s32_pair_saturating"])), "utf-8")
    return path


@needs_browser
def test_page_in_a_browser(written, tmp_path):
    told = story(WATCHED["gemm_u8s8s32_pair_saturating"])
    last = len(told["steps"]) - 1
    following = next(i for i in range(13, last) if told["steps"][i]["matters"])
    slide = 'const s = document.getElementById("slider"); s.value = 40; s.dispatchEvent(new Event("input"));'
    uncheck = 'document.getElementById("skip").checked = false;'
    for fragment, script, want in [
        ("", "", 0),
        ("#step=12", "", 12),
        ("#step=12", key("ArrowRight"), following),
        ("#step=12", uncheck + key("ArrowRight") * 2 + key("ArrowLeft"), 13),
        ("", slide, 40),
        ("#step=<b>", 'document.getElementById("last").click();', last),
    ]:
        assert step_of(seen(written, fragment, tmp_path, script)) == want


@needs_browser
def test_the_page_says_why_a_pair_saturates(written, tmp_path):
    dom = seen(written, "", tmp_path, key("l"))
    why = re.search(r'<div id="why".*?</div>', dom, re.S)[0].replace("&nbsp;", " ")
    assert "255·127 + 255·127 = 64770 → 32767" in why
    assert "32767 is the most that a signed 16-bit word holds" in why
    assert len(re.findall(r'class="cell[^"]*lossy"', dom)) == 4
    assert "<mark>vpmaddubsw(x, w)</mark>" in dom


# --- machine code ----------------------------------------------------------------------------------------------------

LOOPS = """
\t.file\t1 "/here" "kernel.py"
f:
\tpushq\t%rbp
.LBB0_1:
\tvpxor\t%xmm0, %xmm0, %xmm0
\tvmovdqu64\t%zmm0, (%rdi)
\tvmovdqu64\t%zmm0, 64(%rdi)
\tjne\t.LBB0_1
.LBB0_2:
\tincq\t%rax
.LBB0_3:
\t.loc\t1 7 1 is_stmt 1
\tvpaddd\t%zmm0, %zmm1, %zmm0 # comment
\t.loc\t1 8 1
\tvmovdqa64\t%zmm0, -64(%rsp)
\tvmovdqu64\t64(%rbp), %zmm2
\tjne\t.LBB0_3
\tjmp\t.LBB0_2
"""


def test_inner_loop_of_a_listing():
    loop = assembly.inner_loop(LOOPS)
    assert [line.mnemonic for line in loop] == ["vpaddd", "vmovdqa64", "vmovdqu64", "jne"]
    assert loop[0] == assembly.Line("vpaddd", "%zmm0, %zmm1, %zmm0", "kernel.py", 7)
    found = assembly.Listing(loop, True)
    assert found.spills == [assembly.Line("vmovdqa64", "%zmm0, -64(%rsp)", "kernel.py", 8)]
    assert found.counts == {"vpaddd": 1, "vmovdqa64": 1, "vmovdqu64": 1, "jne": 1}
    with pytest.raises(RuntimeError, match="the compiler left no loop"):
        assembly.inner_loop("f:\n\tretq\n")


DOT_COUNTS = {
    "gemm_u8s8s32": ("vpdpbusd", 24),
    "bsgemm_4x1_u8s8s32": ("vpdpbusd", 16),
    "gemm_bf16": ("vdpbf16ps", 24),
}


@NEEDS_JIT
@pytest.mark.parametrize("target", [PORTABLE, NATIVE])
@pytest.mark.parametrize("name", DOT_COUNTS)
def test_asm(name, target, capsys):
    if target == NATIVE and WATCHED[name].source.missing():
        pytest.skip(f"this CPU lacks {WATCHED[name].source.missing()}")
    data = listing.compile_listing(WATCHED[name], target)
    assert sum(data["counts"].values()) == len(data["loop"])
    if target == NATIVE:
        dot, count = DOT_COUNTS[name]
        assert data["counts"][dot] in (count, 2 * count)  # LLVM may unroll once
        assert data["spills"] == 0
        dots = [line for line in data["loop"] if line["mnemonic"] == dot]
        assert data["lines_known"]
        assert all(f"{dot}(" in line["python"] for line in dots)
        moved = {line["implements"] for line in data["loop"]} - {dot, ""}
        assert moved
        assert all(instructions(WATCHED[name].source) >= set(said.split(" / ")) for said in moved)
    listing.show(data, Console(width=100, highlight=False, emoji=False))
    out = capsys.readouterr().out
    assert f"{target}: the inner loop, {len(data['loop'])} instructions" in out
    assert max(map(len, out.splitlines())) <= 100
    assert ("Nothing spilled" in out) == (data["spills"] == 0)
    listing.show(data | {"lines_known": False}, Console(width=100))
    assert "so no Python lines" in capsys.readouterr().out


# --- the commands ----------------------------------------------------------------------------------------------------


def test_explain(refimpl, tmp_path):  # noqa: F811
    status, out, err = refimpl("explain", "gemm_u8s8s32", "--shape", "2,1,3")
    assert (status, err) == (0, "")
    assert "M = 2, N = 1, K = 3" in out
    status, out, _ = refimpl("explain", "gemm_u8s8s32", "--json")
    assert status == 0
    assert json.loads(out) == story(WATCHED["gemm_u8s8s32"])
    path = tmp_path / "out.html"
    status, out, err = refimpl("explain", "gemm_u8s8s32", "--html", path)
    assert (status, err) == (0, "")
    assert path.read_text("utf-8") == page.page(story(WATCHED["gemm_u8s8s32"]))


def test_mistakes(one_line, tmp_path):  # noqa: F811
    for command in ("explain", "asm"):
        error = one_line(command, "gem_u8s8s32")
        assert "there is no kernel 'gem_u8s8s32'; nearest is gemm_u8s8s32; there are bsgemm_" in error
        assert all(name in error for name in WATCHED)
    assert "shape is 4x4; need M,N,K" in one_line("explain", "gemm_u8s8s32", "--shape", "4x4")
    assert "gemm_u8s8s32_loops is plain loops" in one_line("explain", "gemm_u8s8s32_loops")
    assert "is not a folder" in one_line("explain", "gemm_u8s8s32", "--html", tmp_path / "no" / "x.html")
    (tmp_path / "old.html").touch()
    assert "--force to replace it" in one_line("explain", "gemm_u8s8s32", "--html", tmp_path / "old.html")


def test_asm_of_what_is_only_emulated(one_line):  # noqa: F811
    assert one_line("asm", "gemm_u8s8s32_amx") == "error: gemm_u8s8s32_amx is emulated only: nothing is compiled\n"


@NEEDS_JIT
def test_asm_shows_what_runs(refimpl, monkeypatch):  # noqa: F811
    """Native where this CPU has the instructions, otherwise portable."""
    for features in (cpu.features(), frozenset()):
        monkeypatch.setattr(cpu, "features", lambda features=features: features)
        status, out, err = refimpl("asm", "gemm_bf16")
        assert (status, err) == (0, "")
        assert out.startswith(f"gemm_bf16 {NATIVE if 'avx512bf16' in features else PORTABLE}: the inner loop")


def test_asm_without_a_compiler(one_line, monkeypatch):  # noqa: F811
    monkeypatch.setattr(assembly.config, "DISABLE_JIT", 1)
    assert "NUMBA_DISABLE_JIT is set: nothing is compiled" in one_line("asm", "gemm_u8s8s32")


def test_names_of_the_catalog():
    assert all(kernel.name == name for name, kernel in (WATCHED | OTHERS).items())
    assert {name for name, kernel in (KERNELS | OTHERS).items() if instructions(kernel.source)} == set(WATCHED)


def test_explaining_needs_no_numba_to_be_imported():
    script = "import sys, refimpl.models.explain.commands; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
