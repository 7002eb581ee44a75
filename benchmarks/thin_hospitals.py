"""Many hospitals in one process, which speak the fleet's wire as a real one does.

    python benchmarks/thin_hospitals.py FOLDER --keys KEYS --count 96 [--late 1]

Each has the key and kit in KEYS/thin-000 ..., and a connection, a line and heartbeats of its own;
they answer as `polyclinic_client.fleet.app` would. Only a hospital's inside is left out: there are
no images and no training, but a random task vector of the right shape.

The program writes FOLDER/thin.json about every second: what every hospital did when, and how often.
"""

import argparse
import asyncio
import json
import resource
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from flwr.app import Error, Message
from thin_line import ThinLine
from torch import Tensor, nn

from polyclinic.config.compose import instantiate
from polyclinic.config.jobs import load_job
from polyclinic.errors import PolyclinicError
from polyclinic.federation.envelope import decode, encode
from polyclinic.federation.envelope.content import weights_from_message
from polyclinic.federation.records import (
    Hello,
    Order,
    evaluation_reply,
    hello_reply,
    order_from_message,
)
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.contents import named_blobs
from polyclinic.fleet.protocol import CHUNK_BYTES, FaultCode
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.state_dict import StateDict, shared_names, state_digest, unpack
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.system.durable import write_atomically
from polyclinic.system.processes import end_with_parent
from polyclinic_client.network.connection import Connection, make_connection
from polyclinic_strategies.merging.messages import (
    Assignment,
    Handover,
    confirm,
    hand_over,
    read_assignment,
    read_base,
)

WORKER = ThreadPoolExecutor(1)  # one for all, so that heartbeats go out meanwhile
LENGTH = 0.01  # size of a task vector's entries, about that of the real hospitals'


@dataclass
class Diary:
    """Record of a hospital's steps, in seconds since 1970, and their numbers."""

    joined: float = 0.0
    based: float = 0.0  # it has the base
    ready: float = 0.0  # it has a contribution
    settled: float = 0.0  # the coordinator has acknowledged the contribution
    digest: str = ""
    refused: str = ""
    failed: str = ""
    answered: Counter[str] = field(default_factory=Counter)


class Model:
    """The network to which all hospitals here contribute, and the bases that arrived.

    All hospitals of the process share them.
    """

    def __init__(self) -> None:
        self._network: nn.Module | None = None
        self.bases: dict[str, StateDict] = {}

    def keep(self, order: Order, digest: str, weights: Tensor) -> None:
        """Keep a base, checked as a hospital checks it."""
        if self._network is None:
            self._network = instantiate(load_job(order.names, order.settings).model)
        assert self._network is not None
        state = unpack(weights, self._network.state_dict(), shared_names(self._network, "none"))
        assert state_digest(state) == digest
        self.bases.setdefault(digest, state)


class Hospital(ThinLine):
    """One hospital.

    Args:
        connection: How it connects.
        store: Of the process, so that what everybody is sent lies there once.
        model: Of the process.
        folder: Folder for its contribution, until it is acknowledged.
        after: Seconds of "training".
    """

    def __init__(
        self, connection: Connection, store: BlobStore, model: Model, folder: Path, after: float
    ) -> None:
        super().__init__(connection)
        self.name = connection.site
        self.diary = Diary()
        self._store, self._model, self._folder, self._after = store, model, folder, after
        self._based: set[str] = set()
        self._path: Path | None = None

    def welcomed(self) -> None:
        """Note when it came."""
        self.diary.joined = self.diary.joined or time.time()

    async def answer(self, question: wire.Envelope) -> wire.Envelope:
        """Fetch, answer, and send what is large."""
        try:
            return await self._answer(question)
        except (AssertionError, ValueError, PolyclinicError) as error:
            self.diary.failed = f"{type(error).__name__}: {error}"[:300]
            raise

    async def _answer(self, question: wire.Envelope) -> wire.Envelope:
        needed = list(named_blobs(question))
        self._store.hold(needed)
        for digest in needed:
            chunks = await self.fetch(digest)  # everybody its own
            if not self._store.has(digest):
                self._store.put(chunks)
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(WORKER, self._computed, question)
        given = named_blobs(reply)
        self._store.hold(given)
        for digest, size in given.items():
            content = self._store.path(digest).read_bytes()
            chunks = [content[start : start + CHUNK_BYTES] for start in range(0, size, CHUNK_BYTES)]
            await self.store(question.message_id, wire.Blob(digest=digest, size=size), chunks)
        self._store.release([*needed, *given])
        return reply

    def _computed(self, question: wire.Envelope) -> wire.Envelope:
        return encode(self._reply(decode(question, self._store)), self._store)

    def _reply(self, message: Message) -> Message:
        kind = message.metadata.message_type
        self.diary.answered[kind] += 1
        if kind == "query.hello":
            cases = {"training": 1, "validation": 1, "test": 1}
            return hello_reply(message, Hello(self.name, version("polyclinic"), cases, "T1"))
        if kind == "query.base":
            order, digest = read_base(message)
            self._model.keep(order, digest, weights_from_message(message))
            self._based.add(digest)
            self.diary.based = self.diary.based or time.time()
            return confirm(message)
        if kind == "query.collect":
            return hand_over(message, self._collect(message))
        if kind.startswith("evaluate"):
            order_from_message(message)
            score = 0.5 + 1e-3 * float(weights_from_message(message)[:100].mean())
            return evaluation_reply(message, Evaluation(0.5, {"class": score}, score, 1), 0.0)
        known = f"a thin hospital knows no {kind}"
        return Message(Error(FaultCode.APP_FAILED, known), reply_to=message)

    def _collect(self, message: Message) -> Handover:
        """Return what the outbox holds."""
        assignment, verdicts = read_assignment(message)
        for verdict in verdicts:
            if verdict.digest == self.diary.digest and self._path is not None:
                self.diary.settled, self.diary.refused = time.time(), verdict.reason
                self._path.unlink()
                self._path = None
        if assignment.base not in self._based:
            return Handover(needs_base=True)
        if self.diary.settled:
            return Handover()
        if time.time() < self.diary.based + self._after:
            return Handover(doing="training")
        if self._path is None:
            self._path = self._contribute(assignment)
            self.diary.digest, self.diary.ready = self._path.stem, time.time()
        return Handover(False, "handing over", self._path.stem, self._path.read_bytes())

    def _contribute(self, assignment: Assignment) -> Path:
        """Make a random task vector: another one for each hospital, always the same for one."""
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        vector = {
            name: LENGTH * torch.randn(tensor.shape, generator=generator)
            for name, tensor in self._model.bases[assignment.base].items()
        }
        given = Contribution(
            self.name,
            assignment.base,
            assignment.task,
            1,
            {"loss": 0.5, "score": 0.5},
            time.time(),
            version("polyclinic"),
        )
        return write_contribution(self._folder, given, vector, {})


def name_of(number: int) -> str:
    """Return the name of the hospital of that number."""
    return f"thin-{number:03}"


def write_diaries(path: Path, hospitals: list[Hospital]) -> None:
    """Write what everybody did so far."""
    counts: Counter[str] = sum((hospital.counts for hospital in hospitals), Counter())
    answered: Counter[str] = sum((hospital.diary.answered for hospital in hospitals), Counter())
    each = {hospital.name: vars(hospital.diary) for hospital in hospitals}
    content = {"time": time.time(), "calls": counts, "answered": answered, "hospitals": each}
    write_atomically(path, json.dumps(content))


async def live(asked: argparse.Namespace) -> None:
    """Be all hospitals until terminated."""
    model, store = Model(), BlobStore(asked.folder / "blobs", 1 << 30)
    early = asked.count - asked.late
    hospitals = []
    for number in range(asked.count):
        kit = asked.keys / name_of(number) / "kit.json"
        connection = make_connection(None, None, kit, None, insecure=False)
        after = asked.spread * number / max(early, 1) if number < early else 0.0
        hospitals.append(Hospital(connection, store, model, asked.folder, after))
    started = hospitals[:early]
    tasks = [asyncio.create_task(hospital.live()) for hospital in started]
    while True:
        await asyncio.sleep(1.0)
        if len(started) < len(hospitals) and (asked.folder / "go").exists():
            tasks += [asyncio.create_task(hospital.live()) for hospital in hospitals[early:]]
            started = hospitals
        for task in tasks:
            if task.done():
                task.result()
        write_diaries(asked.folder / "thin.json", started)


def main() -> None:
    """Read the options, and live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--keys",
        type=Path,
        required=True,
        help="a folder for each hospital with hospital.key and kit.json",
    )
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument(
        "--late", type=int, default=0, help="so many of them come once FOLDER/go is there"
    )
    parser.add_argument(
        "--spread",
        type=float,
        default=0.0,
        help="seconds over which contributions become ready, evenly",
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    end_with_parent()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(live(asked))


if __name__ == "__main__":
    main()
