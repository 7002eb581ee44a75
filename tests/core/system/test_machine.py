"""What a process was given of the machine."""

import getpass
import os
import pwd
import sys
from pathlib import Path

import psutil
import pytest

from polyclinic.system import machine
from polyclinic.system.machine import given_cores, name_user, thread_settings


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "350000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu.max": "what 1\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "200000\n"}, 8),
    ],
)
def test_a_containers_limit_counts(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, content in files.items():
        write(tmp_path / name, content)
    assert given_cores(tmp_path) == cores


def test_a_process_that_computes_gets_all_cores_unless_told_otherwise() -> None:
    assert thread_settings({"OMP_NUM_THREADS": "16"}) == {"OMP_NUM_THREADS": "16"}
    assert thread_settings({}) == {"OMP_NUM_THREADS": str(given_cores())}


def test_a_user_without_a_name_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    known = pwd.getpwuid(os.getuid()).pw_name
    name_user()
    assert "LOGNAME" not in os.environ and getpass.getuser() == known
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setenv("LOGNAME", "")  # restored afterwards
    name_user()
    assert getpass.getuser() == f"user-{os.getuid()}"


def test_memory_is_given_back_where_that_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [bytearray(3000) for _ in range(30_000)]  # pieces that the C library keeps
    kept = held[::10_000]
    before = psutil.Process().memory_info().rss
    del held
    machine.return_memory()
    if sys.platform == "linux":
        assert psutil.Process().memory_info().rss < before - 40 * 2**20
    assert kept
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _name: object())  # another C library
    machine.return_memory()
