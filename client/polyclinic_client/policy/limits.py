"""The limits of a hospital's policy: what a coordinator may make its machine do.

They are compared with an order before anything is built, and hold while it is worked on.
"""

import math
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from polyclinic.config.schemas import DataConfig, JobConfig
from polyclinic.errors import LimitExceeded
from polyclinic.federation.records import Order
from polyclinic.learning.cases.disk_cache import DiskCache
from polyclinic.learning.networks.memory import ON_CPU, estimate_memory_gb
from polyclinic.system.faults import is_out_of_memory
from polyclinic_client.policy.policy import Policy, read_policy

FREE_SHARE = 0.5  # of the free disk, for prepared cases
COPIES = 5  # of the weights in training: they, their slopes, two moments, what is sent
AGAIN_S = 30.0  # work that goes on after its time is told again


def most_numbers(policy: Policy) -> float:
    """Return the most parameters of a network that is trained here."""
    return policy.memory_bytes / (4 * COPIES)


def refuse_network(asked: str) -> LimitExceeded:
    """Make the error of a network that is too large; for `bounded_network`."""
    return LimitExceeded(asked, "smaller", "--max-memory-gb")


def fit_cache(policy: Policy, data: DataConfig) -> DataConfig:
    """Return the same data, with no more memory for prepared cases than is allowed."""
    own = policy.memory_bytes / 2**31 if policy.cache_gb is None else policy.cache_gb
    return replace(data, cache_gb=min(data.cache_gb, own))


def open_disk(policy: Policy, folder: Path) -> DiskCache | None:
    """Open the folder of prepared cases; None where nothing may lie on the disk."""
    if policy.disk_gb == 0:
        return None
    disk = DiskCache(folder, math.inf)
    if policy.disk_gb is None:
        disk.most_bytes = FREE_SHARE * (_free_bytes(folder) + disk.bytes)
    else:
        disk.most_bytes = policy.disk_gb * 2**30
    return disk


def check_limits(policy: Policy, order: Order, job: JobConfig, cases: int = 1) -> None:
    """Refuse an order that asks for more, before anything of it is built.

    Args:
        policy: The hospital's.
        order: Number of rounds.
        job: What a round is.
        cases: Number of training cases; so many samples are one pass of a round of steps.

    Raises:
        LimitExceeded: What it asks for, and which limit that is.
    """
    training = job.training
    samples = training.steps * training.batch_size
    each = math.ceil(samples / max(1, cases)) if training.steps else training.epochs
    passes = max(order.rounds * each, order.restoration_steps)
    if passes > policy.epochs:
        raise LimitExceeded(
            f"{passes} passes over the training cases", f"{policy.epochs}", "--max-epochs"
        )
    if order.round > max(order.rounds, 1):
        raise LimitExceeded(f"round {order.round} of {order.rounds}", f"{order.rounds}", "")
    data = job.data
    numbers = math.prod(data.patch) * (data.channels + max(len(data.labels), 1))
    needed = 4.0 * numbers * training.batch_size
    if needed > policy.memory_bytes:
        raise LimitExceeded(
            f"batches of {needed / 2**30:,.1f} GiB",
            f"{policy.memory_bytes / 2**30:,.1f} GiB",
            "--max-memory-gb",
        )
    _check_planned(policy, estimate_memory_gb(job))


def _check_planned(policy: Policy, needed_gb: float) -> None:
    """Refuse a planned network whose training the memory of GPU or process cannot hold.

    Raises:
        LimitExceeded: What it takes, as it is estimated, and what there is.
    """
    if needed_gb <= 0:
        return
    on_gpu = gpu_memory()
    needed_gb *= 1.0 if on_gpu else ON_CPU
    allowed_gb = (on_gpu or policy.memory_bytes) / 2**30
    if needed_gb > allowed_gb:
        raise LimitExceeded(
            f"a plan whose training takes about {needed_gb:,.1f} GiB"
            f"{' of a GPU' if on_gpu else ''} (patches of data.patch, training.batch_size of "
            "them)",
            f"{allowed_gb:,.1f} GiB",
            "" if on_gpu else "--max-memory-gb",
        )


def gpu_memory() -> float:
    """Return the memory of the GPU that trains, in bytes; 0 without one."""
    import torch  # it is needed here alone

    if not torch.cuda.is_available():
        return 0.0
    return float(torch.cuda.get_device_properties(0).total_memory)


def _free_bytes(folder: Path) -> int:
    """Return the free bytes of a folder's disk; the folder need not be there yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


@contextmanager
def within_limits(state: Path) -> Iterator[None]:
    """Do one piece of work: it is ended after its time, and out of memory is said plainly.

    Args:
        state: The hospital's state folder.

    Raises:
        LimitExceeded: It took longer than allowed, or needed more memory.
    """
    policy = read_policy(state)
    try:
        with _timed(policy.hours):
            yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        gigabytes = f"{policy.memory_bytes / 2**30:,.1f} GiB"
        raise LimitExceeded("more memory than that", gigabytes, "--max-memory-gb") from error


@contextmanager
def _timed(hours: float) -> Iterator[None]:
    """Interrupt whatever runs too long; in a main thread alone, where signals arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise LimitExceeded(f"more than {hours:g} hours of work", f"{hours:g}", "--max-hours")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, hours * 3600, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
