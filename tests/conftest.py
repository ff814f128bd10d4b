"""Options and settings of the whole suite."""

import hypothesis
import pytest

hypothesis.settings.register_profile("refimpl", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("refimpl")


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--runslow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow; run with --runslow"))
