"""A recipe's report: a page that is whole and needs nothing else, its figures in a browser, and tables."""

import json
import re

import pytest
from recipe_report import report
from rich.console import Console
from test_6_explain import Reader, needs_browser, seen

from refimpl.models.recipes.page import page
from refimpl.models.recipes.show import show


def bare():
    """One stage without training, nothing pruned, no engine but ours, f32."""
    made = report()
    made["stages"] = [{"name": "nothing", "seconds": 0.0, "updates": 0, "metrics": {"accuracy": 91.28}, "history": [],
                       "sparsity": [], "notes": [], "tuning": []}]  # fmt: skip
    made |= {"layers": [], "heads": [], "engines": made["engines"][:1]}
    made["sizes"]["encoder"] |= {"dense": 42_550_272, "blocks": 42_550_272, "after": 42_550_272, "ratio": 1.0}
    return made


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_escapes_everything_and_needs_nothing_else():
    evil = "</script><img src=x onerror=alert(1)>&amp;<!-- @SCRIPT@ "
    made = report()
    made["recipe"] |= {"name": evil, "about": evil}
    made["stages"][0] |= {"name": evil, "notes": [evil]}
    made["engines"][2]["why"] = evil
    text = page(made)
    reader = Reader(text)
    shown = json.loads(reader.texts["data"])
    assert shown["stages"][1]["history"][0]["loss"] is None  # it was nan
    made["stages"][1]["history"][0]["loss"] = None
    assert shown == made | {"smaller_is_better": ["perplexity"]}
    assert [tag for tag, *_ in reader.attributes if tag in ("img", "link", "iframe")] == []
    assert [tag for tag, key, _ in reader.attributes if tag == "script"] == ["script", "script"]
    outside = re.sub("<title>.*?</title>", "", text.replace(reader.texts["data"], ""))
    namespace = "http://www.w3.org/2000/svg"  # a name, nothing is loaded from there
    assert not re.search(
        r"https?:|@import|url\(|fetch|XMLHttp|@[A-Z]+@|innerHTML|eval|<!--", outside.replace(namespace, "")
    )


def rectangles(dom, title, classes):
    """How many of a kind a figure has."""
    (figure,) = re.findall(rf"<h2>{title}.*?</figure>", dom, re.S)
    return len(re.findall(rf'<rect class="{classes}"', figure))


@needs_browser
def test_the_figures_in_a_browser(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page(report()), "utf-8")
    dom = seen(path, "", tmp_path)
    assert len(re.findall("<polyline", dom)) == 2
    assert [rectangles(dom, "Parameters", kind) for kind in ("gone", "stored", "left")] == [36, 36, 36]
    heads = [11, 9, 12, 8, 5, 1]
    assert rectangles(dom, "Heads", "left") == sum(heads) + 6
    assert rectangles(dom, "Heads", "gone") == 72 - sum(heads) + 6
    for layer in report()["heads"]:
        (bars,) = re.findall(rf"<title>layer {layer['layer']}: \d+ of 12 heads.*?</g>", dom, re.S)
        drawn = re.findall(r'<rect class="(\w+)"', bars)[:12]
        assert [head for head, kind in enumerate(drawn) if kind == "left"] == layer["kept_heads"]
    for said in (
        "62.0 % at its end",
        "NOT RUN: openvino died: SIGSEGV",
        "NOT WRITTEN",
        "8.69 times smaller",
        "2 of 872",
        "quantize: layers back in f32, the 3 tries",
        '<td class="number">-0.001235</td>',
    ):
        assert said in dom
    assert dom.count('<td class="number"><span class="worse">\u22120.80</span>') == 1
    assert "a [gorgeous] , witty , seductive movie . &lt;/script&gt;&lt;b&gt;" in dom


def in_floats():
    """ONNX Runtime multiplies two of the 36 layers in floats."""
    made = report()
    made["engines"][1] |= {"integer_layers": 34, "in_floats": 2}
    return made


@needs_browser
def test_layers_that_run_in_floats_in_a_browser(tmp_path):
    path, red = tmp_path / "report.html", '<span class="bad">34 of 36: 2 linear layers run in floats</span>'
    for made, count in [(in_floats(), 1), (report(), 0)]:
        path.write_text(page(made), "utf-8")
        assert seen(path, "", tmp_path).count(red) == count


@needs_browser
def test_a_report_of_nothing_in_a_browser(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page(bare()), "utf-8")
    dom = seen(path, "", tmp_path)
    assert "<figure" not in dom
    assert "1.00 times smaller" in dom  # the script ran to its last tables
    assert "36 of 36" in dom


# --- tables ----------------------------------------------------------------------------------------------------------


def shown(made, color_system=None):
    screen = Console(
        width=100, highlight=False, emoji=False, color_system=color_system, force_terminal=color_system is not None
    )
    with screen.capture() as capture:
        show(made, screen)
    return capture.get()


def test_the_tables():
    text = shown(report())
    assert max(map(len, text.splitlines())) <= 100
    words = [" ".join(line.split()) for line in text.splitlines()]
    for line in [
        "f32, before 91.28",
        "2 quantization-aware 90.60 +0.12 2,105 25.0",
        "all quantized 0 89.9",
        "rank layer.0.qkv 1 -0.001235",
        "keep layer.0.qkv 1 90.37 good enough",
        "5 1 of 12 64 of 1,536 1,769,472 60,498 96.6%",
        "openvino NOT WRITTEN openvino is not installed; need: python -m pip install openvino",
        "ONNX Runtime 1.32.0 model.onnx 90.48 36 of 36 2 of 872",
        "OpenVINO openvino/openvino_model.xml NOT RUN - -",
        "17 a [gorgeous] , witty , seductive movie … negative 0.012 positive 0.0034",
        "OpenVINO NOT RUN: openvino died: SIGSEGV; the last that it printed: nothing",
        "accuracy 90.37, was 91.28; the encoder is 8.69 times smaller",
    ]:
        assert line in words


def test_layers_that_run_in_floats_are_red():
    red = "\x1b[31m"
    text = shown(in_floats(), "standard")
    assert f"{red}34 of 36" in text
    assert f"{red}ONNX Runtime NOT IN INTEGERS\x1b[0m: 2 of the quantized linear layers run in floats" in text
    assert "IN INTEGERS" not in shown(report())
    assert f"{red}36 of 36" not in shown(report(), "standard")


def test_an_engine_that_saturates_is_named():
    made = report()
    made["engines"][1]["saturates"] = True
    assert shown(made).count("ONNX Runtime SATURATES: without VNNI it clips sums of pairs to 16 bits") == 1
    assert "SATURATES" not in shown(report())


@pytest.mark.parametrize("different", [5, 6, 700])
def test_of_many_different_rows_the_first_are_shown(different):
    made = report()
    engine = made["engines"][1]
    engine |= {"differences": engine["differences"][:1] * different, "different": different}
    text = shown(made)
    assert text.count("[gorgeous]") == 5
    assert (f"... and {different - 5} more, in report.json" in text) == (different > 5)


def test_the_tables_of_nothing():
    made = bare()
    made["stages"] = []
    text = shown(made)
    assert "Layers" not in text
    assert "accuracy 91.28, was 91.28; the encoder is 1.00 times smaller" in text
