"""The README's Python works as printed, and its measured parts are there."""

import re
from pathlib import Path

import pytest

from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.models.embedded import demo_model

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_python_blocks(capsys):
    if not BSGEMM_4X1.source.runs_natively():
        pytest.skip("this CPU lacks AVX-512 VNNI, which one block needs")
    try:
        demo_model()
    except ValueError as error:
        pytest.skip(str(error))
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        exec(block, namespace)
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"INT8, native kernels, one thread {what}" for what in ("positive", "a good film")]
    assert said[2].startswith("layer.3.gelu [0, 0, ")
    assert said[3] == "(2, 384) all within the bounds"
    assert [line.split()[0] for line in said[4:6]] == ["layer.0.qkv", "layer.0.attention_output"]
    assert said[6] == "(1, 384) (1, 384)"
    assert said[7:10] == ["(1, 384)"] * 3


@pytest.mark.parametrize("section", ["verify", "compare", "peak", "graph", "profile", "bench"])
def test_measured_sections_are_filled(section):
    assert re.search(rf"<!-- {section} -->\n(.*?)<!-- /{section} -->", README, re.DOTALL)[1].strip()


def test_the_two_commands():
    commands = re.findall(r"^    (python -m pip install .*)$", README, re.MULTILINE)
    assert commands == [
        "python -m pip install -e '.[engines]' && refimpl verify",
        "python -m pip install -e '.[test]' && python -m pytest",
    ]
