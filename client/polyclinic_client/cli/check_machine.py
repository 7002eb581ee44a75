"""What `polyclinic-client check` says of the machine: one line each, with the remedy."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from polyclinic.errors import DiskFull, PolyclinicError, ResourceError
from polyclinic.system.durable import flush
from polyclinic.system.faults import explain
from polyclinic.system.machine import given_cores
from polyclinic.system.processes import parse_address, try_lock
from polyclinic_client.fleet.supervisor import BLOBS_BYTES
from polyclinic_client.network.proxy import EXCEPTIONS, UNUSED, VARIABLES, proxy_for
from polyclinic_client.site.trial import try_training

NEEDED_DISK = 2**30  # models, pictures, logs
CACHE_BYTES = BLOBS_BYTES + NEEDED_DISK  # and what travels, kept for the next time
LEAST_SHM = 64 * 2**20  # what Docker gives
SHM = Path("/dev/shm")
DRIVER = Path("/proc/driver/nvidia/version")
SLOW_S = 60.0  # for one step


@dataclass(frozen=True)
class Finding:
    """What was seen.

    Attributes:
        text: In words.
        remedy: What to do, where it is worth a note; empty where all is well.
    """

    text: str
    remedy: str = ""


def check_state(state: Path) -> Finding:
    """Write, flush and lock a file in the state folder, or in the one where it would be made.

    Raises:
        ResourceError: One of these is not possible.
    """
    folder = nearest(state)
    try:
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".check-") as file:
            file.write("polyclinic")
            flush(file.fileno())
            try_lock(file)
    except (OSError, PolyclinicError) as error:
        user = f"user {os.getuid()}, group {os.getgid()}"
        reason = error.strerror if isinstance(error, OSError) else explain(error)
        raise ResourceError(
            f"{folder}: {user} cannot keep files there ({reason}). Give that user the folder "
            "(chown), let a container see it (:z where SELinux is on), or choose another one with "
            "--state."
        ) from error
    return Finding(f"files can be written and locked in {folder}")


def check_disk(state: Path) -> Finding:
    """Look for room for models, and for what travels.

    Raises:
        DiskFull: There is not enough for models.
    """
    folder = nearest(state)
    free = psutil.disk_usage(str(folder)).free
    if free < NEEDED_DISK:
        raise DiskFull(folder, free, NEEDED_DISK)
    text = f"{free / 2**30:,.0f} GiB free in {folder}"
    if free >= CACHE_BYTES:
        return Finding(text)
    remedy = (
        f"Models that travel are kept for the next time, up to {BLOBS_BYTES / 2**30:.0f} GiB: have "
        f"{CACHE_BYTES / 2**30:.0f} GiB free, or choose another folder with --state."
    )
    return Finding(text, remedy)


def check_gpu() -> Finding:
    """Look for a GPU as torch sees it; without one, find out why."""
    import torch

    if torch.cuda.is_available():
        names = [_describe_gpu(number) for number in range(torch.cuda.device_count())]
        return Finding(f"{'; '.join(names)}; driver {_driver()}")
    cores = given_cores()
    text = f"none: training runs on {cores} core{'' if cores == 1 else 's'}"
    if not DRIVER.exists():
        return Finding(text)
    if torch.version.cuda is None:
        remedy = "this torch is a build for CPUs: install one for CUDA, or another image."
    elif not list(Path("/dev").glob("nvidia[0-9]*")):
        remedy = "give the GPU to the container: docker run --gpus all, with NVIDIA's toolkit."
    else:
        remedy = f"it may be too old for CUDA {torch.version.cuda}, or the user has no right to it."
    return Finding(text, f"The driver {_driver()} is loaded, but no GPU can be used: {remedy}")


def check_shm(folder: Path = SHM) -> Finding:
    """Look at the memory that processes share, which containers give little of."""
    if not folder.is_dir():
        return Finding(f"{folder} is not there", "Mount it: docker run --shm-size=1g.")
    size = psutil.disk_usage(str(folder)).total
    text = f"{size / 2**20:,.0f} MiB"
    remedy = "torch may need more: docker run --shm-size=1g, or shm_size in the compose file."
    return Finding(text, "" if size >= LEAST_SHM else remedy)


def check_training() -> Finding:
    """Train on noise for a moment.

    Raises:
        ResourceError: It failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        took = try_training(Path(folder))
    text = (
        f"a step with the default network took {took.seconds:.1f} s on {took.device}, with "
        f"{took.threads} core{'' if took.threads == 1 else 's'} and "
        f"{took.memory_bytes / 2**30:.1f} GiB of memory"
    )
    slow = "Training will take long: give it a GPU, or more cores (OMP_NUM_THREADS sets how many)."
    return Finding(text, slow if took.seconds > SLOW_S else "")


def check_proxy(server: str | None, environment: Mapping[str, str] | None = None) -> Finding:
    """Say by which way the coordinator is dialled, and which variables do not count.

    Args:
        server: HOST:PORT; None where no coordinator is named.
        environment: Where the variables are; this process's own if None.

    Raises:
        ConfigError: A variable names no proxy that can be used.
    """
    known = os.environ if environment is None else environment
    named = [name for name in (*VARIABLES, *EXCEPTIONS, *UNUSED) if known.get(name)]
    text = f"variables: {', '.join(named)}" if named else "no variable names one"
    if server is None:
        return Finding(text)
    proxy = proxy_for(*parse_address(server), known)
    way = f"{server} is dialled straight" if proxy is None else f"{proxy} leads to {server}"
    ignored = [name for name in named if name in UNUSED]
    only = bool(ignored) and not any(name in VARIABLES for name in named)
    remedy = f"{', '.join(ignored)} is not for this connection: set https_proxy." if only else ""
    return Finding(f"{way}; {text}", remedy)


def nearest(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _describe_gpu(number: int) -> str:
    import torch

    memory = torch.cuda.get_device_properties(number).total_memory
    return f"{torch.cuda.get_device_name(number)} ({memory / 2**30:.0f} GiB)"


def _driver() -> str:
    """Return the version of the GPU's driver; a container sees the one of its machine."""
    try:
        words = DRIVER.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return "unknown"
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")
