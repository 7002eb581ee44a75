"""Faults of the machine are named as such; what is none is left alone."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from polyclinic.errors import ConfigError, DiskFull, OutOfMemory, StorageFailed
from polyclinic.system.faults import explain, shareable

PLACE = "/state/patient-7.nii"


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(errno.ENOSPC, "No space left"), DiskFull),
        (OSError(errno.EDQUOT, "Quota exceeded", PLACE), DiskFull),
        (OSError(errno.EACCES, "Permission denied", PLACE), StorageFailed),
        (OSError(errno.ENOENT, "No such file", PLACE), StorageFailed),
        (OSError(errno.ESTALE, "Stale file handle"), StorageFailed),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), OutOfMemory),
        (RuntimeError("shapes do not match"), None),
        (ConnectionResetError(errno.ECONNRESET, "reset"), None),
        (OSError("no number"), None),
        (ValueError(PLACE), None),
    ],
)
def test_what_the_machine_lacks_is_named(error: Exception, found: type[Exception] | None) -> None:
    assert type(explain(error)) is (found or type(None))


def test_memory_that_really_cannot_be_had_is_recognized() -> None:
    for ask in (lambda: np.zeros(2**55, np.uint8), lambda: torch.zeros(2**55, dtype=torch.uint8)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            ask()
        assert isinstance(explain(caught.value), OutOfMemory)


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = ConfigError("x")
    assert explain(error) is error


def test_the_path_stays_at_the_hospital_and_the_remedy_for_memory_does_not(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="patient") as caught:
        (tmp_path / "patient-7.nii").read_bytes()
    assert str(tmp_path / "patient-7.nii") in str(explain(caught.value))
    assert shareable(caught.value) == "StorageFailed"
    memory = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    assert "training.batch_size" in shareable(memory)
