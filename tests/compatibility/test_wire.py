"""A conversation recorded in version 1 of the wire: either side of today understands it."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from polyclinic.federation.answers import read_figures, read_hello
from polyclinic.federation.envelope import decode
from polyclinic.federation.envelope.content import weights_from_message
from polyclinic.federation.records import order_from_message
from polyclinic.fleet import challenge
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.contents import named_blobs
from polyclinic.fleet.protocol import OLDEST, PROTOCOL
from polyclinic.fleet.wire.fleet_pb2 import Envelope, FromCoordinator, FromHospital, Reply
from polyclinic.security.admission_errors import SignatureInvalid
from polyclinic_client.network.connection import Connection
from polyclinic_server.fleet.grid import FleetGrid
from tests.client.fleet import hospitals
from tests.client.fleet.coordinators import Coordinator
from tests.server.fleet.coordinators import open_server, until
from tests.server.fleet.thin_hospital import ThinHospital, Ward

RECORDED = Path(__file__).parent / "wire_1" / "conversation.json"
SITE, TRAINED = "st-mary", (10, 17_000)


@dataclass
class Conversation:
    """What was said, in its order, and the blobs beside it."""

    authority: bytes
    frames: list[tuple[str, str, bytes]]
    blobs: dict[str, bytes]

    def said(self, sender: str, kind: str) -> list[Any]:
        """Return the frames of a kind, as today's code reads them."""
        reader: Any = FromHospital if sender == "hospital" else FromCoordinator
        return [
            getattr(reader.FromString(frame), kind)
            for who, what, frame in self.frames
            if (who, what) == (sender, kind)
        ]

    def exchanges(self) -> list[tuple[Envelope, Envelope]]:
        """Return questions with their answers."""
        replies = {each.envelope.reply_to: each.envelope for each in self.said("hospital", "reply")}
        asked = [each.envelope for each in self.said("coordinator", "work")]
        return [(question, replies[question.message_id]) for question in asked]


@pytest.fixture(scope="module")
def spoken() -> Conversation:
    found = json.loads(RECORDED.read_text())
    return Conversation(
        base64.b64decode(found["authority"]),
        [(each["from"], each["kind"], base64.b64decode(each["frame"])) for each in found["frames"]],
        {digest: base64.b64decode(blob) for digest, blob in found["blobs"].items()},
    )


def test_its_version_is_understood(spoken: Conversation) -> None:
    (hello,) = spoken.said("hospital", "hello")
    assert OLDEST <= hello.protocol <= PROTOCOL


def test_its_signature_still_holds_and_a_changed_one_does_not(spoken: Conversation) -> None:
    (asked,), (proof,) = spoken.said("coordinator", "challenge"), spoken.said("hospital", "proof")
    known = spoken.authority, SITE, asked.protocol
    challenge.verify(proof, asked.nonce, *known)
    with pytest.raises(SignatureInvalid):
        challenge.verify(proof, asked.nonce[::-1], *known)


def answers(
    grid: FleetGrid, one: ThinHospital, spoken: Conversation, questions: list[Message]
) -> list[Message]:
    """Ask the questions that were asked then, and let the hospital answer as it did."""
    found = []
    for question, (_, then) in zip(questions, spoken.exchanges(), strict=True):
        node = grid.get_node_ids()[0]
        given = question.metadata
        message = grid.create_message(question.content, given.message_type, node, given.group_id)
        (identifier,) = grid.push_messages([message])
        assert one.work().message_id == identifier
        for digest in named_blobs(then):
            data = spoken.blobs[digest]
            assert one.offer(identifier, data) == 0
            assert one.store(data) == len(data)
        reply = Envelope.FromString(then.SerializeToString())
        reply.reply_to = identifier
        one.say(reply=Reply(envelope=reply))
        one.hear("taken")
        found += grid.pull_messages([identifier])
    return found


def questions_of(spoken: Conversation, folder: Path) -> list[Message]:
    """Return the questions, read by today's code."""
    store = BlobStore(folder)
    for blob in spoken.blobs.values():
        store.put([blob])
    return [decode(question, store) for question, _ in spoken.exchanges()]


def check_answers(replies: list[Message]) -> None:
    """Compare with what `conversation_worker` computes."""
    hello, *trained, tested = replies
    assert read_hello(hello).counts == {"training": 3, "validation": 1, "test": 2}
    assert read_hello(hello).site == SITE
    for reply, size in zip(trained, TRAINED, strict=True):
        assert torch.equal(weights_from_message(reply), 2.0 * torch.arange(size))
    figures = read_figures(tested)
    assert (figures.loss, figures.scores) == (0.25, {"liver": 0.75})


def test_the_coordinator_of_today_understands_the_hospital(
    spoken: Conversation, tmp_path: Path
) -> None:
    (hello,), (proof,) = spoken.said("hospital", "hello"), spoken.said("hospital", "proof")
    with open_server(tmp_path / "fleet") as server:
        ward = Ward(server.address)
        one = ward.hospital(SITE, hello.client)
        one.open()
        one.say(hello=hello)
        one.hear("challenge")
        one.say(proof=proof)
        welcome = one.hear("welcome").welcome
        one.session = welcome.session
        until(server.grid.get_nodes, server.grid)
        check_answers(
            answers(server.grid, one, spoken, questions_of(spoken, tmp_path / "questions"))
        )
        one.say(goodbye=spoken.said("hospital", "goodbye")[0])
        until(lambda: not server.grid.get_nodes(), server.grid)
        ward.close()


class CoordinatorOfThen(Coordinator):
    """Says what was said then; keys are left out, because a nonce is signed once."""

    def __init__(self, folder: Path, spoken: Conversation) -> None:
        super().__init__(folder)
        self._spoken = spoken

    async def Attend(self, frames: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        del context
        self.hellos.append((await anext(frames)).hello)
        (asked,) = self._spoken.said("coordinator", "challenge")
        yield FromCoordinator(challenge={"protocol": asked.protocol, "version": asked.version})
        self.proofs.append((await anext(frames)).proof)
        (welcome,) = self._spoken.said("coordinator", "welcome")
        self.session = welcome.session
        yield FromCoordinator(welcome=welcome)
        async for frame in self._serve(frames):
            yield frame


def test_the_hospital_of_today_understands_the_coordinator(
    spoken: Conversation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hospitals, "SMALL_WORKER", "tests.compatibility.conversation_worker")

    async def converse() -> list[Envelope]:
        one = CoordinatorOfThen(tmp_path / "coordinator", spoken)
        for blob in spoken.blobs.values():
            one.store.put([blob])
        await one.start()
        try:
            connection = Connection(f"127.0.0.1:{one.port}", SITE)
            async with hospitals.hospital(connection, tmp_path / "state"):
                return [await one.ask(question) for question, _ in spoken.exchanges()]
        finally:
            await one.stop()

    replies = asyncio.run(converse())
    store = BlobStore(tmp_path / "coordinator")
    for reply in replies:
        reply.ttl_s = 1.0  # the question was asked long ago; a coordinator takes the question's
    check_answers([decode(each, store) for each in replies])
    order = order_from_message(questions_of(spoken, tmp_path / "questions")[0])
    assert (order.run, order.seed, order.settings) == ("demo", 7, {"training.epochs": 2})
