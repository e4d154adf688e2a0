"""How the tests are run; what they run on is in tiny.py."""

import os

# Before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# There is a test process for each core.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """The process that only hands out tests to others does without the libraries."""
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("tiny")


def pytest_xdist_auto_num_workers() -> int:
    """One more test process than there are cores: some tests wait for processes that they started."""
    return min(4, (os.cpu_count() or 1) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait come first; else they would be what the whole suite waits for in the end."""
    for item in items:
        if item.get_closest_marker("processes"):
            item.add_marker("slow")
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option of test_golden.py."""
    parser.addoption(
        "--write-golden", action="store_true", help="write the golden numbers of tests/data/golden.json anew"
    )
