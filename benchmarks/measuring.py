"""What benchmarks say of the machine and of processes."""

from pathlib import Path

import psutil


def peak_mb(pid: int | None) -> float:
    """Return the peak memory of a process, in MB (10^6 bytes)."""
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    return next(
        int(line.split()[1]) * 1024 / 1e6
        for line in status.splitlines()
        if line.startswith("VmHWM")
    )


def machine() -> str:
    """Describe the machine."""
    memory, load = psutil.virtual_memory().total / 2**30, psutil.getloadavg()[0]
    return f"{psutil.cpu_count()} cores, {memory:.0f} GB, load {load:.1f} before"
