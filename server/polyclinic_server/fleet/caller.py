"""Who takes up a line: what it says of itself, read and bounded."""

import re
from dataclasses import dataclass

from polyclinic.fleet.wire.fleet_pb2 import Doing, Hello
from polyclinic.security.kit import SITE_NAME
from polyclinic.system.text import clean

CLIENT = re.compile(r"[\x21-\x7e]{0,80}")  # empty: it only asks
VERSION = re.compile(r"[\w.+!-]{0,40}", re.ASCII)
MOST_HELD = 1_000  # pieces of work that a hospital says it holds
DOING_CHARACTERS = 80
MOST_MEMORY = 2**50  # bytes: who says more has none


@dataclass(frozen=True)
class Caller:
    """A client that was admitted.

    Attributes:
        site: The hospital's name: that of its key, where keys are used.
        client: The client's own mark: the same after a cut.
        mark: Fingerprint of its key; empty without keys.
        version: Of its polyclinic.
        ahead_s: Seconds by which its clock is ahead of ours; None where it showed no key.
    """

    site: str
    client: str
    mark: str = ""
    version: str = ""
    ahead_s: float | None = None


@dataclass(frozen=True)
class Told:
    """What a hospital last said that its worker does, and of its machine; see `Doing`.

    Attributes:
        doing: In a few words; empty if it said nothing.
        device: What it computes with; empty if it does not say so.
        memory_bytes: Of that device; None if it does not say so.
    """

    doing: str = ""
    device: str = ""
    memory_bytes: int | None = None


def is_sound(hello: Hello) -> bool:
    """Return whether a hello is what a client sends."""
    return bool(
        SITE_NAME.fullmatch(hello.site)
        and CLIENT.fullmatch(hello.client)
        and VERSION.fullmatch(hello.version)
        and len(hello.holding) <= MOST_HELD
        and len(hello.instance) <= 80
        and all(len(each) <= 80 for each in hello.holding)
    )


def read_doing(said: Doing) -> Told:
    """Return what a hospital says that it does, and of its machine, as it may be shown."""
    memory = said.memory_bytes
    known = 0 < memory <= MOST_MEMORY
    return Told(_shorten(said.text), _shorten(said.device), memory if known else None)


def _shorten(text: str) -> str:
    return clean(text[: 4 * DOING_CHARACTERS])[:DOING_CHARACTERS]
