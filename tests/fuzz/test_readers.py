"""Whatever comes in: a value within bounds comes of it, or a documented error."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.reader import attempt, warm
from tests.fuzz.registry import READERS, kept_inputs

FAST = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", READERS)
def test_no_input_ends_in_an_undocumented_error(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    warm(reader, tmp_path, 1)
    refused = 0

    @FAST
    @given(content=reader.inputs)
    def read(content: bytes) -> None:
        nonlocal refused
        outcome = attempt(reader, content, tmp_path)
        assert not outcome.problem
        refused += not outcome.read

    read()
    assert refused or not reader.errors  # the inputs do have faults


@pytest.mark.parametrize(
    ("name", "path"), kept_inputs(), ids=lambda each: getattr(each, "name", each)
)
def test_an_input_that_went_wrong_once(name: str, path: Path, tmp_path: Path) -> None:
    assert attempt(READERS[name], path.read_bytes(), tmp_path).problem == ""
