"""Envelopes on the socket between a hospital's client and its worker: a length, then the bytes."""

import socket
import struct

from polyclinic.errors import RunError
from polyclinic.fleet.protocol import LARGEST_BYTES
from polyclinic.fleet.wire.fleet_pb2 import Envelope

LENGTH = struct.Struct(">I")


def pack(envelope: Envelope) -> bytes:
    """Return the bytes of an envelope, as they go through the socket.

    Raises:
        RunError: It is too long for the coordinator's line as well.
    """
    content: bytes = envelope.SerializeToString()
    return LENGTH.pack(check_length(len(content))) + content


def check_length(length: int) -> int:
    """Return a length that is allowed.

    Raises:
        RunError: It is not.
    """
    if length > LARGEST_BYTES:
        raise RunError(
            f"A message of {length} bytes without its arrays is too long; {LARGEST_BYTES} are "
            "allowed."
        )
    return length


def receive(link: socket.socket) -> Envelope | None:
    """Wait for the next envelope; None after the other side has ended."""
    head = _exactly(link, LENGTH.size)
    content = head and _exactly(link, check_length(*LENGTH.unpack(head)))
    if content is None:
        return None
    envelope: Envelope = Envelope.FromString(content)
    return envelope


def _exactly(link: socket.socket, count: int) -> bytes | None:
    content = bytearray()
    while len(content) < count:
        piece = link.recv(min(count - len(content), 1 << 20))
        if not piece:
            return None
        content += piece
    return bytes(content)
