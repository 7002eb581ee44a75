"""A hospital in a few lines: it speaks the wire, and computes nothing."""

import contextlib
import queue
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from blake3 import blake3
from flwr.app import ConfigRecord, RecordDict

from polyclinic.fleet import challenge
from polyclinic.fleet.protocol import CHUNK_BYTES, CLIENT_OPTIONS, PROTOCOL, SESSION_HEADER
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.fleet.wire.fleet_pb2_grpc import FleetStub
from polyclinic.security import keys
from polyclinic.security.admission_errors import unpack_refusal
from polyclinic.security.keys import PrivateKey
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.fleet.grid import FleetGrid
from polyclinic_server.fleet.sessions import node_of

PATIENCE_S = 10.0
Frame = wire.FromCoordinator


@dataclass
class Credentials:
    """What a hospital has: its name, its key, and the authority in its kit."""

    site: str
    key: PrivateKey | None = None
    authority: Authority | None = None


class ThinHospital:
    """One client of a hospital; `attend` opens its line, again after a cut.

    Args:
        address: The coordinator's.
        credentials: Whose client it is.
        client: Its mark; another one after a restart.
    """

    def __init__(self, address: str, credentials: Credentials, client: str = "") -> None:
        self.credentials = credentials
        self.client = client or secrets.token_hex(8)
        self.instance = ""
        self.session = b""
        self.holding: list[str] = []
        self.asked = ""  # the grid's newest question
        authority = credentials.authority
        self.channel = (
            grpc.insecure_channel(address, CLIENT_OPTIONS)
            if authority is None
            else grpc.secure_channel(
                address, grpc.ssl_channel_credentials(authority.ca().encode()), CLIENT_OPTIONS
            )
        )
        self.stub: Any = FleetStub(self.channel)  # type: ignore[no-untyped-call]
        self._frames: queue.SimpleQueue[wire.FromHospital | None] = queue.SimpleQueue()
        self._call: Any = None
        self._quiet = threading.Event()

    def close(self) -> None:
        """End without a word."""
        self._quiet.set()
        self._frames.put(None)
        self.channel.close()

    def open(self, timeout_s: float = 120.0) -> None:
        """Begin a line, without saying anything."""
        self._frames = queue.SimpleQueue()
        self._call = self.stub.Attend(iter(self._frames.get, None), timeout=timeout_s)

    def say(self, **frame: Any) -> None:
        """Send a frame."""
        self._frames.put(wire.FromHospital(**frame))

    def hear(self, kind: str = "") -> Frame:
        """Return the next frame that is no heartbeat, which must be of a kind if one is given."""
        heard = (frame for frame in self._call if frame.WhichOneof("frame") != "heartbeat")
        frame: Frame = next(heard)
        assert not kind or frame.WhichOneof("frame") == kind, frame
        return frame

    def hello(self, **changes: Any) -> wire.Hello:
        """Return its hello."""
        facts = {
            "protocol": PROTOCOL,
            "version": "0.2.0",
            "site": self.credentials.site,
            "client": self.client,
            "instance": self.instance,
            "holding": self.holding,
        }
        return wire.Hello(**(facts | changes))

    def proof(self, asked: wire.Challenge, **changes: Any) -> wire.Proof:
        """Answer a challenge."""
        key, authority = self.credentials.key, self.credentials.authority
        if key is None or authority is None:
            return wire.Proof()
        facts = {
            "nonce": asked.nonce,
            "authority": keys.authority_digest(authority.ca()),
            "site": self.credentials.site,
            "protocol": asked.protocol,
            "time": time.time(),
        }
        return challenge.sign(key, **(facts | changes))

    def attend(self, **changes: Any) -> wire.Welcome:
        """Open a line to its welcome."""
        self.open()
        self.say(hello=self.hello(**changes))
        self.say(proof=self.proof(self.hear("challenge").challenge))
        welcome = self.hear("welcome").welcome
        self.session, self.instance = welcome.session, welcome.instance
        self._beat(welcome.heartbeat_ms / 1000)
        return welcome

    def fall_silent(self) -> None:
        """Send no heartbeats any more, while the line stays open."""
        self._quiet.set()

    def _beat(self, interval_s: float) -> None:
        self._quiet.set()
        self._quiet = quiet = threading.Event()
        frames = self._frames

        def beat() -> None:
            while not quiet.wait(interval_s):
                frames.put(wire.FromHospital(heartbeat=wire.Heartbeat()))

        threading.Thread(target=beat, daemon=True).start()

    def cut(self) -> None:
        """Lose the line, as when a network fails."""
        self._quiet.set()
        self._call.cancel()
        with contextlib.suppress(grpc.RpcError):
            for _ in self._call:
                pass

    def work(self) -> wire.Envelope:
        """Wait for work, and say that it is here."""
        envelope = self.hear("work").work.envelope
        self.say(received=wire.Received(message_id=envelope.message_id))
        self.holding.append(envelope.message_id)
        return envelope

    def work_of(self, grid: FleetGrid, content: RecordDict | None = None) -> wire.Envelope:
        """Have the grid ask this hospital, and wait for the question."""
        records = content or RecordDict({"c": ConfigRecord({"round": 1})})
        node = node_of(self.credentials.site)
        (self.asked,) = grid.push_messages([grid.create_message(records, "train", node, "1")])
        return self.work()

    def reply(self, question: str, content: wire.Content | None = None, **more: Any) -> str:
        """Answer work, and return what the coordinator took."""
        envelope = wire.Envelope(reply_to=question, content=content, **more)
        self.say(reply=wire.Reply(envelope=envelope))
        taken = self.hear("taken").taken.message_id
        self.holding = [each for each in self.holding if each != taken]
        return taken

    @property
    def metadata(self) -> list[tuple[str, bytes]]:
        """What its calls about blobs show."""
        return [(SESSION_HEADER, self.session)]

    def fetch(self, digest: str, offset: int = 0, most: int | None = None) -> bytes:
        """Fetch a blob, or some of it."""
        request = wire.FetchRequest(digest=digest, offset=offset)
        found = bytearray()
        call = self.stub.Fetch(request, metadata=self.metadata, timeout=PATIENCE_S)
        for chunk in call:
            found += chunk.data
            if most is not None and len(found) >= most:
                call.cancel()
                break
        return bytes(found)

    def offer(self, question: str, data: bytes, **changes: Any) -> int:
        """Offer a blob of a reply, and return how much of it the coordinator has."""
        blob = wire.Blob(**({"digest": digest_of(data), "size": len(data)} | changes))
        request = wire.OfferRequest(message_id=question, blob=blob)
        return int(self.stub.Offer(request, metadata=self.metadata, timeout=PATIENCE_S).offset)

    def store(self, data: bytes, offset: int = 0, end: int | None = None, digest: str = "") -> int:
        """Send a blob from an offset on."""
        name = digest or digest_of(data)
        chunks = _chunks(name, data[:end], offset)
        return int(self.stub.Store(chunks, metadata=self.metadata, timeout=PATIENCE_S).offset)


@dataclass
class Ward:
    """Hospitals of a test, which end with it."""

    address: str
    hospitals: list[ThinHospital] = field(default_factory=list)

    def hospital(self, credentials: Credentials | str, client: str = "") -> ThinHospital:
        """Make a client of a hospital."""
        known = Credentials(credentials) if isinstance(credentials, str) else credentials
        self.hospitals.append(ThinHospital(self.address, known, client))
        return self.hospitals[-1]

    def close(self) -> None:
        """End all."""
        for each in self.hospitals:
            each.close()


def digest_of(data: bytes) -> str:
    """Return the name of a blob."""
    return blake3(data).hexdigest()


def refusal_of(error: grpc.RpcError) -> object:
    """Return the class of the refusal that ended a call."""
    return type(unpack_refusal(str(error.details())))


def _chunks(digest: str, data: bytes, offset: int) -> Iterator[wire.Chunk]:
    yield wire.Chunk(digest=digest, offset=offset, data=data[offset : offset + CHUNK_BYTES])
    for start in range(offset + CHUNK_BYTES, len(data), CHUNK_BYTES):
        yield wire.Chunk(data=data[start : start + CHUNK_BYTES])
