"""Every example in a docstring is true."""

import doctest
import importlib
import pkgutil

import pytest

import refimpl

MODULES = [
    module.name
    for module in pkgutil.walk_packages(refimpl.__path__, "refimpl.")
    if module.name not in ("refimpl.__main__",)
]


def modules():
    """The modules of the three folders; ``refimpl.__path__`` alone holds the first."""
    names = list(MODULES)
    for folder in ("refimpl.kernels", "refimpl.models"):
        package = importlib.import_module(folder)
        names += [module.name for module in pkgutil.walk_packages(package.__path__, folder + ".")]
    return sorted(set(names))


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    if name.startswith("refimpl.models.engines."):
        pytest.importorskip(name.rsplit(".", 1)[1], reason="the engine is not installed")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    count = sum(
        bool(test.examples)
        for name in modules()
        if not name.startswith("refimpl.models.engines.")
        for test in finder.find(importlib.import_module(name))
    )
    assert count >= 15
