"""A gate in this machine through which gRPC reaches a coordinator behind a proxy.

gRPC dials a socket in a folder that only this user can enter; what it says is carried, as it is,
through a tunnel of the proxy's. TLS stays whole between gRPC and the coordinator.
"""

import atexit
import contextlib
import shutil
import socket
import tempfile
import threading
from pathlib import Path

from polyclinic.errors import PolyclinicError
from polyclinic_client.network.proxy import dial

DIAL_S = 20.0
PIECE_BYTES = 1 << 18
_RELAYS: dict[tuple[str, int], "Relay"] = {}
_MAKING = threading.Lock()


def relay_to(host: str, port: int) -> str:
    """Return gRPC's target of a relay to a coordinator; it works until this process ends."""
    with _MAKING:
        if (host, port) not in _RELAYS:
            _RELAYS[host, port] = Relay(host, port)
        return f"unix:{_RELAYS[host, port].path}"


class Relay:
    """Listens, and carries each connection to the coordinator by a tunnel of its own.

    Args:
        host: The coordinator.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        folder = tempfile.mkdtemp(prefix="polyclinic-")  # short: a socket's path has a limit
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder) / "relay"
        self._way = host, port
        self._listening = socket.socket(socket.AF_UNIX)
        atexit.register(self._listening.close)
        self._listening.bind(str(self.path))
        self._listening.listen()
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                inside, _ = self._listening.accept()
            except OSError:
                return  # the process ends
            threading.Thread(target=self._carry, args=[inside], daemon=True).start()

    def _carry(self, inside: socket.socket) -> None:
        """Open a tunnel and carry both ways; why there is none, a handshake finds out again."""
        try:
            outside = dial(*self._way, DIAL_S)
        except (OSError, PolyclinicError):
            inside.close()
            return
        outside.settimeout(None)
        back = threading.Thread(target=_pour, args=[outside, inside], daemon=True)
        back.start()
        _pour(inside, outside)
        back.join()
        inside.close()
        outside.close()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes one way until one of the two ends."""
    piece = memoryview(bytearray(PIECE_BYTES))
    with contextlib.suppress(OSError):
        while count := source.recv_into(piece):
            sink.sendall(piece[:count])
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
