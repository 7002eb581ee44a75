"""Flower's SuperNode as a child process of the hospital: the one connection that leaves it (gRPC, outbound only).

Three things of Flower's are changed (docs/decisions/flower-1.39.md). It sleeps 3 s between two looks for a message and 0.5 s between two
looks for its reply: `_Clock` stands in for its `time`, so that the pauses follow `polyclinic.system.processes.pause_s`. It would wait a quarter of
an hour on a connection that was cut silently: gRPC asks every few seconds whether the other side still lives. And once it has given up on a
connection, or its heartbeat has, it stays alive without doing anything: here the process ends, and the hospital's client starts another.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from polyclinic.system.processes import PROMPT, end_with_parent, pause_s

KEEPALIVE = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 60_000),  # a slow link that loses packets is still a link
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 10_000),
]
SHORTEST_S = 0.08
GAP_SHARE = 0.1  # of the time between two messages: who is asked every ten seconds need not look ten times a second
IDLE_S = 3  # what Flower's loop asks for when there was no message


class _Clock:
    """Stands in for the module `time` inside Flower's SuperNode loop."""

    def __init__(self) -> None:
        self._since = (
            time.monotonic()
        )  # of the last change between waiting for a message and waiting for its reply
        self._idle = True
        self._gap_s = 0.0  # how long it waited for the last message

    def sleep(self, seconds: float) -> None:
        """Sleep as long as our pace says; Flower's own pause is the upper bound."""
        idle = seconds >= IDLE_S
        if idle != self._idle:
            self._gap_s = self._gap_s if idle else time.monotonic() - self._since
            self._idle, self._since = idle, time.monotonic()
        shortest = max(SHORTEST_S, GAP_SHARE * self._gap_s) if idle else SHORTEST_S
        time.sleep(pause_s(time.monotonic() - self._since, min(shortest, seconds), seconds))


def create_channel(
    server_address: str, insecure: bool, root_certificates: bytes | None = None, max_message_length: int = -1,
    interceptors: Sequence[Any] | None = None,
) -> Any:  # fmt: skip
    """A gRPC channel like Flower's, which notices a connection that was cut silently."""
    import grpc

    options = [
        ("grpc.max_send_message_length", max_message_length),
        ("grpc.max_receive_message_length", max_message_length),
        *KEEPALIVE,
    ]
    if insecure:
        channel = grpc.insecure_channel(server_address, options=options)
    else:
        channel = grpc.secure_channel(
            server_address, grpc.ssl_channel_credentials(root_certificates), options=options
        )
    return grpc.intercept_channel(channel, *(interceptors or ()))


def main() -> NoReturn:
    """`python -m polyclinic_client.fleet.supernode ARGS`: Flower's SuperNode at our pace; it ends when the hospital's client is gone."""
    from flwr.client.grpc_rere_client import connection
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    pull_objects.__kwdefaults__.update(PROMPT)  # type: ignore[union-attr]
    start_client_internal.time = _Clock()  # type: ignore[attr-defined, assignment]
    connection.create_channel = create_channel  # type: ignore[attr-defined]
    threading.excepthook = _end_with_thread
    end_with_parent()
    status = 1  # Flower returns when it has given up on the connection, with the thread of its Runtime API still running
    try:
        flower_supernode()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    _end(status)


def _end_with_thread(ended: threading.ExceptHookArgs) -> None:
    """A heartbeat that dies takes the process along."""
    threading.__excepthook__(ended)
    _end(1)


def _end(status: int) -> NoReturn:
    """End without the interpreter's shutdown, which would wait for threads for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
