"""The tests of this folder are marked: they take minutes."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("attacks")
