"""A page's server: a thread of this process, on an address of its own."""

import asyncio
import contextlib
import re
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from polyclinic.errors import ConfigError
from polyclinic.system.listening import join_address, open_listener
from polyclinic.web.gate import Gate

ADDRESS = re.compile(r"(?:(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]]*):)?(?P<port>\d{1,5})")
BACKLOG = 64
MOST_CONNECTIONS = 200
STOP_S = 3.0
GOODBYE_S = 0.1  # in which connections that are being closed are gone
HOME = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """Where a page is served; port 0 is a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str = "--page") -> "Address":
        """Read PORT or HOST:PORT.

        Raises:
            ConfigError: It is neither.
        """
        found = ADDRESS.fullmatch(text)
        if found is None or int(found["port"]) > 65535:
            raise ConfigError(f"{option} {text}: give PORT or HOST:PORT, such as 8080.")
        return cls((found["host"] or HOME).strip("[]"), int(found["port"]))

    def listen(self, option: str = "--page") -> socket.socket:
        """Open the listener.

        Raises:
            BindFailed: It cannot be had; the subclass says why.
        """
        return open_listener(self.host, self.port, f"{option} HOST:port", BACKLOG)


@dataclass(frozen=True)
class Certificate:
    """Files of a server certificate and its key, PEM."""

    chain: Path
    key: Path


def told_to_end() -> threading.Event:
    """Return what is set when this process is told to end, by Ctrl-C or by whoever started it."""
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    return told


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    await server.serve(sockets=[listener])
    for connection in list(server.server_state.connections):  # browsers keep them open
        if (transport := getattr(connection, "transport", None)) is not None:
            transport.abort()
    await asyncio.sleep(GOODBYE_S)


@contextlib.contextmanager
def serving(
    app: Gate, listener: socket.socket, certificate: Certificate | None = None
) -> Iterator[str]:
    """Serve inside the `with` block; yield the page's address.

    Args:
        app: What answers.
        listener: Where; it is closed at the end.
        certificate: None for plain HTTP.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        http="h11",
        loop="asyncio",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=2,
        ssl_certfile=certificate.chain if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(server, listener)), name="page", daemon=True
    )
    host, port = listener.getsockname()[:2]
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://{join_address(host, port)}/"
    finally:
        app.leave()
        server.should_exit = True
        thread.join(STOP_S)
        listener.close()
