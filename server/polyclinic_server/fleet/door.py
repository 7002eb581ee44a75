"""The one port that faces hospitals: TLS ends here, and bytes go on to the Fleet API on a private socket of this machine.

gRPC could speak TLS itself, but does not tell who broke off a handshake, or why. Here every failed handshake is a line in the journal, and
a renewed certificate is taken without a restart.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from polyclinic.security.admission_errors import (
    AdmissionRefused,
    AuthorityUnknown,
    CertificateExpired,
    HostNameWrong,
    PlaintextRefused,
)
from polyclinic_server.enrolment.authority import Authority

HANDSHAKE_S = 20.0  # a slow link needs seconds; who stays silent for longer is cut off
BLOCK_BYTES = 1 << 17
BACKLOG = 256
MOST = 4000  # connections at the same time; a hospital has one or two
Note = Callable[[AdmissionRefused, str], None]


class Door:
    """Listens for hospitals in a thread of its own.

    Args:
        host, port: Where.
        authority: Whose certificate is shown; a renewed one is noticed.
        inner: The Fleet API's Unix socket.
        note: Told of every handshake that failed, with the other side's IP address.
    """

    def __init__(self, host: str, port: int, authority: Authority, inner: Path, note: Note) -> None:
        self._address = host, port
        self._authority = authority
        self._inner = inner
        self._note = note
        self._context = authority.context()
        self._issued = self._changed()
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen; returns once hospitals can connect.

        Raises:
            OSError: The address is taken, or not this machine's.
        """
        listener = _listen(*self._address)
        threading.Thread(
            target=lambda: asyncio.run(self._serve(listener)), name="door", daemon=True
        ).start()

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(0.1)  # no file descriptors left, say
                continue
            if len(self._tasks) >= MOST:
                connection.close()
                continue
            task = loop.create_task(self._admit(connection, str(address[0])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _admit(self, connection: socket.socket, who: str) -> None:
        """One connection, from the handshake to its end."""
        self._take_renewed()
        _keep_alive(connection)
        reader = asyncio.StreamReader(limit=BLOCK_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=5.0,
            )
        except ssl.SSLError as error:
            connection.close()
            refusal = reason(error, who)
            if refusal is not None:
                await loop.run_in_executor(None, self._note, refusal, who)
            return
        except OSError:
            connection.close()  # left without a word: a health check, or a port scan
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        await self._pass_on(reader, writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(
                str(self._inner), limit=BLOCK_BYTES
            )
        except OSError:
            writer.close()
            return
        pumps = [
            asyncio.ensure_future(_pump(reader, inner_writer)),
            asyncio.ensure_future(_pump(inner_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for each in (writer, inner_writer):
                each.close()
            await asyncio.gather(*pumps, return_exceptions=True)

    def _changed(self) -> int:
        return (self._authority.folder / "server.crt").stat().st_mtime_ns

    def _take_renewed(self) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            if (changed := self._changed()) != self._issued:
                self._authority.load_into(self._context)
                self._issued = changed


def reason(error: ssl.SSLError, who: str) -> AdmissionRefused | None:
    """Why a handshake failed; None for what is no hospital's doing."""
    text = (error.reason or str(error)).upper()
    if "UNKNOWN_CA" in text or "DECRYPT_ERROR" in text:
        return AuthorityUnknown(who=who, server="this server")
    if "CERTIFICATE_EXPIRED" in text:
        return CertificateExpired(who=who, server="this server")
    if "BAD_CERTIFICATE" in text or "CERTIFICATE_UNKNOWN" in text or "HANDSHAKE_FAILURE" in text:
        return HostNameWrong(who=who, server="this server")
    if any(
        word in text
        for word in (
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
            "UNKNOWN_PROTOCOL",
            "RECORD_LAYER_FAILURE",
        )
    ):
        return PlaintextRefused(who=who, server="this server")
    return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until either side ends."""
    with contextlib.suppress(OSError):
        while block := await reader.read(BLOCK_BYTES):
            writer.write(block)
            await writer.drain()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


def _keep_alive(connection: socket.socket) -> None:
    """Notice within a minute or two that the other side is gone, and let small messages go at once."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
