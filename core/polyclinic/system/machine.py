"""What this process was given of the machine: cores, memory, and a user's name."""

import contextlib
import ctypes
import getpass
import os
from collections.abc import Mapping
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
THREADS = "OMP_NUM_THREADS"  # environment variable, read by torch and by libraries of mathematics
NAME = "LOGNAME"  # the environment variable that getpass asks first


def given_cores(cgroup: Path = CGROUP) -> int:
    """Return the number of cores that this process may use: all, fewer by affinity or container.

    Args:
        cgroup: Where the system says what a container's limits are.
    """
    present = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, int(min(present, _quota(cgroup))))


def free_memory(cgroup: Path = CGROUP) -> int:
    """Return the bytes of memory that are free: the machine's, or what a container may still take.

    Args:
        cgroup: Where the system says what a container's limits are.
    """
    free = psutil.virtual_memory().available
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            allowed = int((cgroup / limit).read_text()) - int((cgroup / used).read_text())
        except (OSError, ValueError):  # "max": no limit
            continue
        return max(0, min(free, allowed))
    return free


def given_memory(cgroup: Path = CGROUP) -> int:
    """Return the bytes of memory that this process may use: the machine's, or a container's limit.

    Args:
        cgroup: Where the system says what a container's limits are.
    """
    total = psutil.virtual_memory().total
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
            return min(total, int((cgroup / limit).read_text()))
    return total


def return_memory() -> None:
    """Give memory that this process does not use any more back to the system.

    glibc keeps what is freed in pieces: a process that stays up grows by it. Elsewhere nothing is
    done.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def limit_memory(most_bytes: float) -> None:
    """Let this process have so much memory at most; what asks for more fails, and it lives on."""
    import resource  # not on Windows, where the command lines say what to use instead

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = int(most_bytes)
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def thread_settings(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process that computes: all cores, unless it was told otherwise.

    Args:
        environment: Who tells; this process's own if None.
    """
    known = os.environ if environment is None else environment
    return {THREADS: known.get(THREADS) or str(given_cores())}


def name_user() -> None:
    """Give the user a name in this process and its children where the system knows none.

    A container may run as any number (`--user 1042:1042`); MONAI asks for a name on import, and
    dies without one.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        os.environ[NAME] = f"user-{os.getuid()}"


def _quota(cgroup: Path) -> float:
    """Return a container's limit in cores; infinity without one."""
    for limit, period in (
        ("cpu.max", ""),
        ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"),  # of the first version of cgroups
    ):
        try:
            words = (cgroup / limit).read_text().split()
            if period:
                words += (cgroup / period).read_text().split()
            allowed = float(words[0]) / float(words[1])
        except (OSError, ValueError, IndexError, ZeroDivisionError):  # "max": no limit
            continue
        if allowed > 0:
            return allowed
    return float("inf")
