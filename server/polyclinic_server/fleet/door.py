"""The one port that faces hospitals: TLS ends here.

Bytes go on to gRPC on a private socket of this machine. gRPC could speak TLS itself, but does not
tell who broke off a handshake, or why. Here every failed handshake is a line in the journal, a
renewed certificate is taken without a restart, and who has not shown a key costs little.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

from polyclinic.security.admission_errors import (
    AdmissionRefused,
    AuthorityUnknown,
    CertificateExpired,
    HostNameWrong,
    PlaintextRefused,
)
from polyclinic.system.listening import open_listener
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.fleet.lobby import Guest, Lobby
from polyclinic_server.fleet.pipe import Pipe
from polyclinic_server.fleet.tls_pipe import TlsPipe

HANDSHAKE_S = 20.0  # a slow link needs seconds; who stays silent for longer is cut off
NOT_SENT_BYTES = 128 * 1024  # in the kernel; on a slow line, heartbeats wait behind them
STOP_S = 5.0
BACKLOG = 1_024
MOST = 4_000  # connections at the same time; a hospital has a few
Note = Callable[[AdmissionRefused, str], None]


class Door:
    """Listens for hospitals.

    Args:
        host, port: Where.
        authority: Whose certificate is shown; a renewed one is noticed.
        inner: gRPC's Unix socket; the names of the connections to it lie beside it.
        note: Told of every handshake that failed, with the other side's IP address.
        proving: Whether `proved` will be called for each connection; without, one that speaks TLS
            has proved enough.
        setting: Name of the port's setting, for messages.
    """

    def __init__(
        self,
        host: str,
        port: int,
        authority: Authority,
        inner: Path,
        note: Note,
        *,
        proving: bool = False,
        setting: str = "--port",
    ) -> None:
        self._address = host, port, setting
        self._authority = authority
        self._inner = inner
        self._note = note
        self._proving = proving
        self._context = authority.context()
        self._issued = self._changed()
        self._lobby = Lobby()
        self._tasks: set[asyncio.Task[None]] = set()
        self._named: dict[str, tuple[Guest, Pipe]] = {}  # by what gRPC calls the connection
        self._numbers = count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready, self._leaving = threading.Event(), asyncio.Event()

    def open(self) -> None:
        """Listen in a thread of its own, beside gRPC's; returns once hospitals can connect.

        Raises:
            BindFailed: Nothing can listen there; the subclass says why.
        """
        listener = _listen(*self._address)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(listener)), name="door", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """Close the port and every connection."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._leaving.set)
            self._thread.join(STOP_S)

    def proved(self, peer: str) -> None:
        """Note that a connection has shown who it is; from any thread.

        Args:
            peer: What gRPC calls the connection.
        """
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._trust, peer)

    def _trust(self, peer: str) -> None:
        guest, pipe = self._named.get(peer, (None, None))
        if guest is not None and pipe is not None:
            self._lobby.leave(guest)
            pipe.trust()

    async def _live(self, listener: socket.socket) -> None:
        """Serve until told to leave."""
        self._loop = asyncio.get_running_loop()
        accepting = asyncio.create_task(self._serve(listener))
        self._ready.set()
        await self._leaving.wait()
        tasks = [accepting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    connection, address = await loop.sock_accept(listener)
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        await asyncio.sleep(0.1)  # until others have ended
                    continue
                if len(self._tasks) >= MOST:
                    connection.close()
                    continue
                task = loop.create_task(self._admit(connection, _plain(str(address[0]))))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _admit(self, connection: socket.socket, who: str) -> None:
        """One connection, from its first byte to its end."""
        task = asyncio.current_task()
        assert task is not None
        guest = Guest(who, task)
        self._lobby.enter(guest)
        try:
            with connection:
                _keep_alive(connection)
                await _first_byte(connection)  # a silent one costs no more than its socket
                guest.spoke = True
                self._take_renewed()
                owned = socket.socket(fileno=connection.detach())
            pipe = await self._shake_hands(owned, guest)
            if pipe is not None:
                await self._pass_on(pipe, guest)
        except OSError:
            return  # left without a word: a health check, or a port scan
        finally:
            self._lobby.leave(guest)

    async def _shake_hands(self, connection: socket.socket, guest: Guest) -> Pipe | None:
        """Speak TLS; None if that failed.

        From here on asyncio closes the connection. Closed by us, its number would go to the next
        one, while the event loop still took that number for this one.
        """
        loop = asyncio.get_running_loop()
        pipe = TlsPipe(self._context, trusted=not self._proving)
        try:
            await loop.connect_accepted_socket(lambda: pipe, connection)
            await pipe.shake_hands(HANDSHAKE_S)
        except ssl.SSLError as error:
            refusal = reason(error, guest.who)
            if refusal is not None:
                await loop.run_in_executor(None, self._note, refusal, guest.who)
            return None
        except BaseException:
            pipe.abort()
            raise
        return pipe

    async def _pass_on(self, outer: Pipe, guest: Guest) -> None:
        """Connect to gRPC under a name that it will show, and pass bytes on until either ends."""
        loop = asyncio.get_running_loop()
        name = self._inner.with_name(f"c{next(self._numbers)}")
        inner = Pipe()
        try:
            await outer.begun()
            plain = await _named_connection(self._inner, name)
            await loop.create_unix_connection(lambda: inner, sock=plain)
            peer = f"unix:{name}"
            self._named[peer] = guest, outer
            if not self._proving:
                self._trust(peer)
            outer.join(inner)
            await outer.ended()
        finally:
            self._named.pop(f"unix:{name}", None)
            inner.abort()
            outer.abort()

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


async def _first_byte(connection: socket.socket) -> None:
    """Wait until there is something to read."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)


async def _named_connection(path: Path, name: Path) -> socket.socket:
    """Connect to a Unix socket from a name of our own, which the other side sees."""
    plain = socket.socket(socket.AF_UNIX)
    try:
        plain.setblocking(False)
        plain.bind(str(name))
        await asyncio.get_running_loop().sock_connect(plain, str(path))
    except BaseException:
        plain.close()
        raise
    finally:
        name.unlink(missing_ok=True)
    return plain


def _listen(host: str, port: int, setting: str) -> socket.socket:
    listener = open_listener(host, port, setting, BACKLOG)
    listener.setblocking(False)
    return listener


def _plain(address: str) -> str:
    """Return an address of IPv4 as such, where a socket of both families maps it."""
    mapped = getattr(ipaddress.ip_address(address.partition("%")[0]), "ipv4_mapped", None)
    return str(mapped or address)


def _keep_alive(connection: socket.socket) -> None:
    """Notice within minutes that the other side is gone, and let small messages go at once."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
    for name, value in {**options, "TCP_NOTSENT_LOWAT": NOT_SENT_BYTES}.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
