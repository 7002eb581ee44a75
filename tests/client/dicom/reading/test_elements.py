"""Reading is silent: warnings of the libraries quote what files say."""

import warnings
from pathlib import Path

import pytest

from polyclinic_client.dicom.reading.elements import damage_named


def test_the_silence_of_one_thread_is_not_ended_by_another() -> None:
    """Threads overlap: who came first leaves first."""
    before = list(warnings.filters)
    first, second = (damage_named(Path("a.dcm"), "its header") for _ in range(2))
    first.__enter__()
    second.__enter__()
    warnings.warn("Invalid value 'Doe^Jane'", stacklevel=1)
    first.__exit__(None, None, None)
    warnings.warn("Invalid value 'Doe^Jane'", stacklevel=1)  # still within the second
    second.__exit__(None, None, None)
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning, match="afterwards"):
        warnings.warn("afterwards", stacklevel=1)
