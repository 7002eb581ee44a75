"""Memory of the machine, and of this process."""

import contextlib
import resource
from pathlib import Path

CONTAINERS = (  # files in which a container finds its limit, of both generations of cgroups
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def machine_memory(total_bytes: int) -> int:
    """Return the memory that a container may use, or that of the machine where there is none.

    Args:
        total_bytes: The machine's.
    """
    for path in CONTAINERS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
            return min(total_bytes, int(Path(path).read_text()))
    return total_bytes


def limit_memory(most_bytes: float) -> None:
    """Let this process have so much memory at most; what asks for more fails, and it lives on."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = int(most_bytes)
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory could not be had: Python's, or torch's."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )
