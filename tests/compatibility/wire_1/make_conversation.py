"""Record what a coordinator and a hospital say to each other in version 1 of the wire.

    PYTHONPATH=$PWD python tests/compatibility/wire_1/make_conversation.py

It writes `conversation.json` beside itself. Both sides are the real ones, with TLS and keys; the
worker is `tests/compatibility/conversation_worker.py`.
"""

import asyncio
import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from flwr.app import RecordDict

from polyclinic.federation.envelope.content import weights_to_record
from polyclinic.federation.records import Order, ask_for_test, greeting, order_to_config
from polyclinic.fleet.contents import named_blobs
from polyclinic.fleet.wire.fleet_pb2 import FromCoordinator, FromHospital
from polyclinic.security.keys import authority_digest
from polyclinic_server.fleet import server, service
from polyclinic_server.fleet.grid import FleetGrid
from tests.client.fleet import hospitals
from tests.server.fleet.coordinators import coordinator

ORDER = Order("demo", "fedavg", 7, 2, "none", "0", {"model": "unet"}, {"training.epochs": 2})
LARGE = torch.arange(17_000, dtype=torch.float32)  # travels as a blob
SMALL = torch.arange(10, dtype=torch.float32)
FRAMES: list[dict[str, str]] = []


def note(sender: str, frame: Any) -> None:
    """Record a frame, heartbeats left out."""
    kind = frame.WhichOneof("frame")
    if kind not in ("heartbeat", "doing"):
        data = base64.b64encode(frame.SerializeToString()).decode()
        FRAMES.append({"from": sender, "kind": kind, "frame": data})


class Recorded:
    """A call whose frames are recorded."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def read(self) -> Any:
        """Read a frame of the hospital's."""
        frame = await self._context.read()
        if hasattr(frame, "WhichOneof"):
            note("hospital", frame)
        return frame

    async def write(self, frame: Any) -> None:
        """Write a frame of the coordinator's."""
        note("coordinator", frame)
        await self._context.write(frame)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class RecordingService(service.FleetService):
    """The service, recorded."""

    async def Attend(self, requests: Any, context: Any) -> None:  # noqa: N802
        """Admit a hospital."""
        await super().Attend(requests, Recorded(context))


def converse(grid: FleetGrid, blobs: dict[str, str]) -> None:
    """Ask for a greeting, two rounds of training and a test."""
    while not grid.get_nodes():
        grid.wait_for_news(1.0)
    (node,) = grid.get_node_ids()
    config = order_to_config(ORDER)
    config["server-round"] = 1
    questions = [greeting(ORDER, node, 600.0)]
    for weights in (SMALL, LARGE):
        content = RecordDict({"arrays": weights_to_record(weights), "config": config})
        questions.append(grid.create_message(content, "train", node, "1"))
    questions.append(ask_for_test(ORDER, LARGE, node))
    for question in questions:
        (identifier,) = grid.push_messages([question])
        while not (replies := keep_blobs(grid, identifier, blobs)):
            grid.wait_for_news(1.0)
        assert replies[0].has_content(), replies[0].error


def keep_blobs(grid: FleetGrid, identifier: str, blobs: dict[str, str]) -> Any:
    """Return the replies to a question, and keep what lies beside them."""
    work = grid._work
    for store in (work.questions, work.replies("st-mary")):
        for path in store.folder.glob("*"):
            if len(path.name) == 64:
                blobs[path.name] = base64.b64encode(path.read_bytes()).decode()
    return grid.pull_messages([identifier])


async def main() -> None:
    """Record, and write."""
    server.FleetService = RecordingService  # type: ignore[misc]
    hospitals.SMALL_WORKER = "tests.compatibility.conversation_worker"
    blobs: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name, coordinator(Path(name) / "lab") as lab:
        connection = lab.hospital("st-mary")
        async with hospitals.hospital(connection, Path(name) / "state") as one:
            await asyncio.to_thread(converse, lab.grid, blobs)
            await asyncio.wait_for(one.jobs.settle(), 5.0)
        authority = authority_digest(lab.authority.ca())
    named = {digest for frame in FRAMES for digest in digests(frame)}
    found = {
        "authority": base64.b64encode(authority).decode(),
        "frames": FRAMES,
        "blobs": {digest: blobs[digest] for digest in sorted(named)},
    }
    Path(__file__).with_name("conversation.json").write_text(json.dumps(found, indent=1) + "\n")


def digests(noted: dict[str, str]) -> list[str]:
    """Return the blobs that a recorded frame names."""
    if noted["kind"] not in ("work", "reply"):
        return []
    kind: Any = FromHospital if noted["from"] == "hospital" else FromCoordinator
    frame = kind.FromString(base64.b64decode(noted["frame"]))
    return list(named_blobs(getattr(frame, noted["kind"]).envelope))


if __name__ == "__main__":
    asyncio.run(main())
