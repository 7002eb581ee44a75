"""The socket of a service, in the folder `.fleet` of its runs, which only its user can enter."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET = "service"
OPTIONS = [  # of both sides: an envelope and its wrapping fit into a message
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


@contextmanager
def addressed(fleet: Path) -> Iterator[str]:
    """Yield gRPC's address of a service's socket, good inside the `with` block.

    A socket's path has at most 107 characters, so the folder is named by an open file.

    Args:
        fleet: The folder `.fleet`.
    """
    number = os.open(fleet, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"unix:/proc/self/fd/{number}/{SOCKET}"
    finally:
        os.close(number)


def is_served(fleet: Path) -> bool:
    """Return whether a service listens in a folder `.fleet`."""
    try:
        with addressed(fleet) as address, socket.socket(socket.AF_UNIX) as probe:
            probe.connect(address.removeprefix("unix:"))
            return True
    except OSError:
        return False
