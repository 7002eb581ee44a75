"""A hospital's own limits, STATE/limits.json: what a coordinator may make its machine do.

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
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from polyclinic.config.schemas import STRICT, Count, DataConfig, JobConfig
from polyclinic.errors import LimitExceeded
from polyclinic.federation.records import Order
from polyclinic.learning.cases.disk_cache import DiskCache
from polyclinic.learning.networks.memory import ON_CPU, estimate_memory_gb
from polyclinic.system.faults import is_out_of_memory
from polyclinic.system.machine import given_memory
from polyclinic_client.site.demands import keep_demands, read_demands

FILE = "limits.json"
FREE_SHARE = 0.5  # of the free disk, for prepared cases
COPIES = 5  # of the weights in training: they, their slopes, two moments, what is sent
AGAIN_S = 30.0  # work that goes on after its time is told again
Size = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class Limits:
    """The most that a hospital does for a coordinator.

    Attributes:
        memory_gb: Memory, in GiB, of one of the hospital's two working processes; None for nine
            tenths of the machine's, or of the container's.
        cache_gb: Memory for prepared cases, in GiB; None for half of `memory_gb`. A job that asks
            for more gets this much, and reads the other cases again in each pass.
        disk_gb: Disk for prepared cases that do not stay in memory, in GiB; None for half of what
            is free; 0 for none.
        epochs: Passes over the training cases in all rounds of a run.
        hours: Time for one piece of work, such as a round or a contribution.
        releases: Number of different questions for statistics that are answered, ever.
    """

    memory_gb: Size | None = None
    cache_gb: Size | None = None
    disk_gb: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    epochs: Count = 10_000
    hours: Annotated[float, Field(gt=0, le=8784, allow_inf_nan=False)] = 168.0
    releases: Annotated[int, Field(ge=0, le=1_000_000)] = 1000

    @property
    def memory_bytes(self) -> float:
        """Memory of one process."""
        if self.memory_gb is not None:
            return self.memory_gb * 2**30
        return 0.9 * given_memory()

    @property
    def network_numbers(self) -> float:
        """The most parameters of a network that is trained here."""
        return self.memory_bytes / (4 * COPIES)

    def fit_cache(self, data: DataConfig) -> DataConfig:
        """Return the same data, with no more memory for prepared cases than is allowed."""
        own = self.memory_bytes / 2**31 if self.cache_gb is None else self.cache_gb
        return replace(data, cache_gb=min(data.cache_gb, own))

    def open_disk(self, folder: Path) -> DiskCache | None:
        """Open the folder of prepared cases; None where nothing may lie on the disk."""
        if self.disk_gb == 0:
            return None
        disk = DiskCache(folder, math.inf)
        if self.disk_gb is None:
            disk.most_bytes = FREE_SHARE * (_free_bytes(folder) + disk.bytes)
        else:
            disk.most_bytes = self.disk_gb * 2**30
        return disk

    def check(self, order: Order, job: JobConfig, cases: int = 1) -> None:
        """Refuse an order that asks for more, before anything of it is built.

        Args:
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
        if passes > self.epochs:
            raise LimitExceeded(
                f"{passes} passes over the training cases", f"{self.epochs}", "--max-epochs"
            )
        if order.round > max(order.rounds, 1):
            raise LimitExceeded(f"round {order.round} of {order.rounds}", f"{order.rounds}", "")
        data = job.data
        numbers = math.prod(data.patch) * (data.channels + max(len(data.labels), 1))
        needed = 4.0 * numbers * training.batch_size
        if needed > self.memory_bytes:
            raise LimitExceeded(
                f"batches of {needed / 2**30:,.1f} GiB",
                f"{self.memory_bytes / 2**30:,.1f} GiB",
                "--max-memory-gb",
            )
        self._check_planned(estimate_memory_gb(job))

    def _check_planned(self, needed_gb: float) -> None:
        """Refuse a planned network whose training the memory of GPU or process cannot hold.

        Raises:
            LimitExceeded: What it takes, as it is estimated, and what there is.
        """
        if needed_gb <= 0:
            return
        on_gpu = gpu_memory()
        needed_gb *= 1.0 if on_gpu else ON_CPU
        allowed_gb = (on_gpu or self.memory_bytes) / 2**30
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


def keep_limits(state: Path, **said: float | None) -> None:
    """Remember what was said on the command line; what was not said stays as it is.

    Args:
        state: The hospital's state folder.
        said: Fields of `Limits`.
    """
    keep_demands(state / FILE, Limits, said)


def read_limits(state: Path) -> Limits:
    """Read the hospital's limits.

    Raises:
        ConfigError: The file is damaged: nothing is done then.
    """
    return read_demands(state / FILE, Limits)


@contextmanager
def within_limits(state: Path) -> Iterator[None]:
    """Do one piece of work: it is ended after its time, and out of memory is said plainly.

    Args:
        state: The hospital's state folder.

    Raises:
        LimitExceeded: It took longer than allowed, or needed more memory.
    """
    limits = read_limits(state)
    try:
        with _timed(limits.hours):
            yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        gigabytes = f"{limits.memory_bytes / 2**30:,.1f} GiB"
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
