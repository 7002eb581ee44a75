"""One simulated hospital at the grid: it answers, fails alone, and has randomness of its own."""

import logging
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from flwr.app import Error, Message

from polyclinic.errors import PolyclinicError
from polyclinic.simulation.sides import HospitalInProcess
from polyclinic.system.faults import shareable

RAISED = 2  # Flower's code for an app that raised
LOG = "hospital.log"
log = logging.getLogger("polyclinic.simulation")
OnFault = Callable[[str, Exception], None]


class SimulatedHospital:
    """Answers messages in this process, and fine-tunes between them.

    Args:
        site: Name.
        hospital: What does the work.
        state: Folder of the hospital; its log lies there.
        seed: Seed of the run.
        threads: Number of threads that torch computes with.
        on_fault: Told what the hospital could not do, in full: a simulation has no secrets.
    """

    def __init__(
        self,
        site: str,
        hospital: HospitalInProcess,
        state: Path,
        seed: int,
        threads: int,
        on_fault: OnFault,
    ) -> None:
        self.site = site
        self.hospital = hospital
        self._state = state
        self._seed = seed
        self._threads = threads
        self._on_fault = on_fault
        self._calls = 0
        self._works = True

    def answer(self, message: Message) -> Message:
        """Answer as a hospital's worker does; of an error only what may leave is told."""
        self._calls += 1
        with own_randomness(self._seed, self.site, self._calls), threads(self._threads):
            try:
                reply = self.hospital.answer(message)
            except Exception as error:
                self._note(message.metadata.message_type, error)
                reply = Message(Error(RAISED, shareable(error)), reply_to=message)
            self._fine_tune()
        return reply

    def _fine_tune(self) -> None:
        """Do what a process of its own does in a federation; a defect ends it."""
        if not self._works:
            return
        try:
            self.hospital.work()
        except PolyclinicError as error:  # the hospital's outbox remembers it
            self._note("fine-tuning", error)
        except Exception as error:
            self._works = False
            self._note("fine-tuning", error)

    def _note(self, what: str, error: Exception) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        with (self._state / LOG).open("a") as file:
            file.write(f"{what} failed\n{''.join(traceback.format_exception(error))}\n")
        log.warning("%s: %s failed: %s: %s", self.site, what, type(error).__name__, error)
        self._on_fault(self.site, error)


@contextmanager
def own_randomness(seed: int, *words: str | int) -> Iterator[None]:
    """Draw from a seed of one's own, and leave everybody else's randomness as it was.

    Python's, numpy's and torch's global generators are meant; ours draw from none of them.
    """
    text = "/".join(map(str, (seed, *words)))
    number = int.from_bytes(sha256(text.encode()).digest()[:4], "big")
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Memory:
    """Keeps prepared cases of the hospitals that were asked last, within a limit for all together.

    Args:
        limit_bytes: Memory that all hospitals share.
    """

    def __init__(self, limit_bytes: float) -> None:
        self._limit = limit_bytes
        self._used: dict[str, HospitalInProcess] = {}

    def note_use(self, site: str, hospital: HospitalInProcess) -> None:
        """Note that a hospital was asked; those that were asked longest ago give memory back."""
        self._used.pop(site, None)
        self._used[site] = hospital
        sizes = {name: each.cached_bytes for name, each in self._used.items()}
        total = sum(sizes.values())
        for name in list(self._used)[:-1]:
            if total <= self._limit:
                break
            self._used.pop(name).drop_cache()
            total -= sizes[name]
