"""How a hospital introduces itself on its line: hello, challenge, proof, welcome.

Frames go in and come out here; whoever calls sends and receives them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, FiniteFloat

from polyclinic.errors import LinkError, ServerUnreachable
from polyclinic.fleet import challenge
from polyclinic.fleet.protocol import OLDEST, PROTOCOL
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.fleet.wire.fleet_pb2_grpc import FleetStub
from polyclinic.security.admission_errors import (
    KeyMissing,
    ProtocolRefused,
    TlsMissing,
    unpack_refusal,
)
from polyclinic.security.keys import PrivateKey
from polyclinic.system.text import clean

VERSION = version("polyclinic")
NAME_CHARACTERS = 100
MOST_BEAT_S, LEAST_BEAT_S = 60.0, 0.05  # what a coordinator may ask for


@dataclass(frozen=True)
class Welcome:
    """A coordinator's answer to a hospital that it lets in.

    Attributes:
        site: Name that the coordinator has for the owner of the key; empty without keys.
        version: The coordinator's version of polyclinic.
        ahead_s: Seconds by which this machine's clock is ahead of the coordinator's.
        instance: Another one after the coordinator was started again.
        days_left: Days until the coordinator's certificate expires.
        session: Shown with every blob.
        beat_s: Seconds between two heartbeats.
        anchors: Newest lines of its journals.
    """

    site: str
    version: str
    ahead_s: float
    instance: str
    days_left: int | None = None
    session: bytes = b""
    beat_s: float = 10.0
    anchors: tuple[wire.Anchor, ...] = ()


def days_until(ends: datetime | None) -> int | None:
    """Return the days until a moment; None where none is known."""
    return None if ends is None else (ends - datetime.now(ends.tzinfo)).days


def fleet_stub(channel: Any) -> Any:
    """Return the fleet's calls on a channel."""
    return FleetStub(channel)  # type: ignore[no-untyped-call]


class Introduction:
    """One introduction.

    Args:
        server: The coordinator's address, for messages.
        site: What this hospital is called.
        key: Its key; None where no keys are used.
        authority: `authority_digest` of the kit's authority; empty without keys.
    """

    def __init__(self, server: str, site: str, key: PrivateKey | None, authority: bytes) -> None:
        self._server, self._site, self._key, self._authority = server, site, key, authority

    def hello(
        self, client: str = "", instance: str = "", holding: Sequence[str] = ()
    ) -> wire.FromHospital:
        """Make the first frame.

        Args:
            client: Drawn when the client starts; empty to ask only, and take up no line.
            instance: Coordinator that gave the work that is held.
            holding: That work.
        """
        return wire.FromHospital(
            hello=wire.Hello(
                protocol=PROTOCOL,
                version=VERSION,
                site=self._site,
                client=client,
                instance=instance,
                holding=holding,
            )
        )

    def prove(self, frame: wire.FromCoordinator) -> wire.FromHospital:
        """Answer the challenge.

        Raises:
            AdmissionRefused: The coordinator, or this hospital, refuses.
            ServerUnreachable: This is no coordinator that could be understood.
        """
        asked = self._expect(frame, "challenge").challenge
        if not OLDEST <= asked.protocol <= PROTOCOL:
            server, client = clean(asked.version)[:40], VERSION
            raise ProtocolRefused(site=self._site, client=client, server=server)
        if self._key is None:
            if asked.nonce:
                raise KeyMissing(who="this hospital")
            return wire.FromHospital(proof=wire.Proof(time=time.time()))
        if len(asked.nonce) != challenge.NONCE_BYTES:
            raise TlsMissing(server=self._server, who="this hospital")
        proof = challenge.sign(
            self._key, asked.nonce, self._authority, self._site, asked.protocol, time.time()
        )
        return wire.FromHospital(proof=proof)

    def welcome(self, frame: wire.FromCoordinator, ends: datetime | None = None) -> Welcome:
        """Read the answer to the proof.

        Args:
            frame: The answer.
            ends: When the coordinator's certificate expires.

        Raises:
            AdmissionRefused: The coordinator refuses.
            ServerUnreachable: This is no coordinator that could be understood.
        """
        said = self._expect(frame, "welcome").welcome
        beat_s = min(MOST_BEAT_S, max(LEAST_BEAT_S, said.heartbeat_ms / 1000))
        return Welcome(
            site=clean(said.site)[:NAME_CHARACTERS],
            version=clean(said.version)[:40],
            ahead_s=time.time() - said.time,
            instance=said.instance[:NAME_CHARACTERS],
            days_left=days_until(ends),
            session=said.session,
            beat_s=beat_s,
            anchors=tuple(said.anchors),
        )

    def _expect(self, frame: wire.FromCoordinator, kind: str) -> wire.FromCoordinator:
        found = frame.WhichOneof("frame")
        if found == "refusal":
            raise refused(self._server, frame.refusal.reason)
        if found != kind:
            raise ServerUnreachable(
                self._server, f"it speaks another protocol ({found} instead of {kind})"
            )
        return frame


def service_welcome(server: str, said: bytes, ends: datetime | None) -> Welcome:
    """Read a service's answer to a handshake.

    Raises:
        ServerUnreachable: It is none.
    """
    try:
        answer = _Answer.model_validate_json(said)
    except ValueError as error:
        raise ServerUnreachable(server, "it speaks another protocol") from error
    return Welcome(
        clean(answer.site)[:NAME_CHARACTERS],
        clean(answer.version)[:40],
        time.time() - answer.time,
        answer.instance[:NAME_CHARACTERS],
        days_until(ends),
    )


class _Answer(BaseModel):
    """What a service says of itself."""

    site: str
    version: str
    time: FiniteFloat
    instance: str


def refused(server: str, reason: str) -> LinkError:
    """Return the error for a refusal; one that this version does not know is shown as it is."""
    return unpack_refusal(reason) or RefusalUnknown(server, clean(reason)[:400])


class RefusalUnknown(LinkError):
    """The coordinator refuses for a reason that this version of polyclinic does not know."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(
            f"The coordinator at {server} refused this hospital ({reason}), for a reason that this "
            "version of polyclinic does not know. Install the version that the coordinator runs."
        )
