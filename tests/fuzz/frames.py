"""Frames of the hospital's line, calls to services, and volumes of the segmentation service."""

import struct
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from google.protobuf.message import DecodeError

from polyclinic.errors import LinkError
from polyclinic.fleet import challenge
from polyclinic.fleet.credentials import credentials
from polyclinic.fleet.protocol import LARGEST_BYTES
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.security.admission_errors import (
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    SITE_HEADER,
    TIMESTAMP_HEADER,
    AdmissionRefused,
    KeyRevoked,
)
from polyclinic_client.fleet.anchors import Anchors
from polyclinic_client.network.introduction import Introduction
from polyclinic_server.enrolment import admission
from polyclinic_server.enrolment.admission import Challenged, admit, admit_proof
from polyclinic_server.enrolment.registry import Enrolled
from polyclinic_server.fleet.caller import DOING_CHARACTERS, is_sound, read_doing
from polyclinic_server.fleet.replies import checked
from tests.fuzz import people
from tests.fuzz.messages import envelope
from tests.fuzz.mutation import TEXTS, damaged, fault
from tests.fuzz.reader import Reader

NUMBERS = (0, 1, 2, 255, 2**31, 2**32 - 1)
REALS = (0.0, 1.0, -1.0, 1e300, float("nan"), float("inf"), 1.7e9)
HEADERS = (PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER, SITE_HEADER)


class Registry:
    """A registry of one hospital."""

    def find(self, mark: str) -> Enrolled | None:
        return Enrolled("north", mark, 0.0) if mark == people.mark() else None

    def note(self, refusal: AdmissionRefused, who: str, site: str = "") -> None:
        assert str(refusal) and refusal.told()


def any_clock() -> AbstractContextManager[Any]:
    """Let clocks differ by thirty years: what was signed once stays good."""
    return patch.multiple(admission, EARLY_S=1e9, LATE_S=1e9)


def altered(message: Any, random: Random) -> Any:
    """Set a field of a protobuf message, or of one inside, to a value that few expect."""
    fields = list(message.DESCRIPTOR.fields)
    field = random.choice(fields)
    if field.message_type is not None:
        inner = getattr(message, field.name)
        if field.is_repeated:
            if len(inner) and random.random() < 0.7:
                altered(inner[random.randrange(len(inner))], random)
            elif random.random() < 0.5:
                inner.extend([inner.add()] * random.choice((1, 50)))
            else:
                del inner[:]
        elif random.random() < 0.9:
            altered(inner, random)
        else:
            message.ClearField(field.name)
        return message
    _set(message, field, random)
    return message


def _set(message: Any, field: Any, random: Random) -> None:
    if random.random() < 0.1:
        message.ClearField(field.name)
        return
    kind = field.cpp_type
    if kind == field.CPPTYPE_STRING and field.type == field.TYPE_BYTES:
        value: Any = random.choice((b"", bytes(32), random.randbytes(40), b"\0" * 100_000))
        old = getattr(message, field.name)
        value = value if field.is_repeated or random.random() < 0.4 else damaged(old, random)
    elif kind == field.CPPTYPE_STRING:
        text = random.choice(TEXTS) if random.random() < 0.7 else str(fault(random))
        value = text.encode("utf-8", "replace").decode()
    elif kind in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        value = random.choice(REALS)
    elif kind == field.CPPTYPE_BOOL:
        value = random.random() < 0.5
    else:
        value = random.choice((0, 1, 2, 3, 255, 2**31 - 1))
        if kind in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
            value = random.choice((*NUMBERS, value))
    if field.is_repeated:
        getattr(message, field.name).extend([value] * random.choice((1, 2, 1001)))
    else:
        setattr(message, field.name, value)


def spoiled(sound: Iterable[Any]) -> Any:
    """Return what draws one of these messages with one to four faults."""
    kept = list(sound)

    def draw(random: Random) -> bytes:
        chosen = random.choice(kept)
        message = type(chosen)()
        message.CopyFrom(chosen)
        for _ in range(random.randint(1, 4)):
            altered(message, random)
        content: bytes = message.SerializeToString()[:LARGEST_BYTES]  # gRPC takes no more
        return damaged(content, random) if random.random() < 0.2 else content

    return draw


# ---- from a hospital

HELLO = wire.FromHospital(
    hello=wire.Hello(protocol=1, version="0.2.0", site="north", client="c", holding=["m"])
)
PROOF = wire.FromHospital(
    proof=challenge.sign(people.key(1), people.NONCE, people.authority(), "north", 1, 1.7e9)
)
CONTENT = {"config": {"a": 1}, "metrics": {"loss": 0.1}}
REPLY = wire.FromHospital(reply=wire.Reply(envelope=envelope(CONTENT, answer=True)))


def read_from_hospital(content: bytes, folder: Path) -> None:
    frame = wire.FromHospital.FromString(content)
    kind = frame.WhichOneof("frame")
    if kind == "hello" and is_sound(frame.hello):
        assert frame.hello.site.isascii() and frame.hello.site.isprintable()
        assert frame.hello.version.isprintable() and frame.hello.client.isprintable()
    elif kind == "proof":
        asked = Challenged(people.NONCE, people.authority(), "north", 1)
        with any_clock():
            admit_proof(Registry(), asked, frame.proof)  # type: ignore[arg-type]
    elif kind == "reply":
        question = envelope({}, answer=False)
        taken = checked(question, frame.reply.envelope, {}, _Empty())  # type: ignore[arg-type]
        assert taken.reply_to == question.message_id and taken.node == question.node
    elif kind == "doing":
        told = read_doing(frame.doing)
        for words in (told.doing, told.device):
            assert len(words) <= DOING_CHARACTERS and words.isprintable()


class _Empty:
    def has(self, digest: str) -> bool:
        return False


def _call() -> dict[str, str | bytes]:
    return dict(credentials(people.key(1), people.authority(), "north"))


def framed(values: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack(">I", len(value)) + value for value in values)


def parts_of(content: bytes) -> list[bytes]:
    """Undo `framed`, whatever lengths it tells."""
    found = []
    while len(content) >= 4:
        (length,) = struct.unpack_from(">I", content)
        found.append(content[4 : 4 + length])
        content = content[4 + length :]
    return found


@cache
def _sound_call() -> bytes:
    shown = _call()
    values = [shown[name] for name in HEADERS]
    return framed(value.encode() if isinstance(value, str) else value for value in values)


def _draw_call(random: Random) -> bytes:
    values = parts_of(_sound_call())
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(values))
        other = str(fault(random))[:4000].encode("utf-8", "replace")
        values[place] = damaged(values[place], random) if random.random() < 0.6 else other
    return framed(values)


def read_call(content: bytes, folder: Path) -> None:
    """Read what gRPC hands over: text in plain headers, bytes in the others."""
    shown = {
        name: value if name.endswith("-bin") else value.decode("latin-1")
        for name, value in zip(HEADERS, parts_of(content), strict=False)
    }
    with any_clock():
        admit(Registry(), shown, people.authority())  # type: ignore[arg-type]


# ---- from a coordinator

CHALLENGE = wire.FromCoordinator(
    challenge=wire.Challenge(nonce=people.NONCE, protocol=1, version="0.2.0")
)
WELCOME = wire.FromCoordinator(
    welcome=wire.Welcome(
        site="north",
        version="0.2.0",
        instance="i",
        session=bytes(16),
        heartbeat_ms=10_000,
        time=1.7e9,
        anchors=[people.anchor()],
    )
)
TAKEN = wire.FromCoordinator(taken=wire.Taken(message_id="m", anchors=[people.anchor()]))
REFUSED = wire.FromCoordinator(
    refusal=wire.Refusal(reason=KeyRevoked(key="SHA256:x", site="north").pack())
)


def read_from_coordinator(content: bytes, folder: Path) -> None:
    frame = wire.FromCoordinator.FromString(content)
    kind = frame.WhichOneof("frame")
    introduction = Introduction("host:1", "north", people.key(1), people.authority())
    kept = Anchors(folder, people.pem())
    if kind == "challenge":
        assert introduction.prove(frame).proof.signature
    elif kind == "taken":
        said = [kept.keep(each) for each in frame.taken.anchors[:3]]
        assert all(text.isprintable() and len(text) < 1000 for text in said)
    else:
        welcome = introduction.welcome(frame)
        assert 0 < welcome.beat_s <= 60 and welcome.version.isprintable()
        assert welcome.site.isprintable() and len(welcome.site) <= 100


READERS = (
    Reader(
        "from-hospital",
        HELLO.SerializeToString(),
        spoiled([HELLO, HELLO, PROOF, REPLY]),
        read_from_hospital,
        (DecodeError, AdmissionRefused),
    ),
    Reader("call", _sound_call(), _draw_call, read_call, (AdmissionRefused,)),
    Reader(
        "from-coordinator",
        WELCOME.SerializeToString(),
        spoiled([CHALLENGE, WELCOME, WELCOME, TAKEN, REFUSED]),
        read_from_coordinator,
        (DecodeError, LinkError),
    ),
)
