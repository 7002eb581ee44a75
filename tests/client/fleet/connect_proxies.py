"""A tiny proxy that knows CONNECT; it sends every tunnel to one port of this machine."""

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator


class ConnectProxy:
    """Keeps what it was asked, and a piece of what it carried."""

    def __init__(self, target: int, credentials: str = "", answer: str = "") -> None:
        self._target, self._answer = target, answer
        self._wanted = base64.b64encode(credentials.encode()).decode() if credentials else ""
        self.asked: list[str] = []
        self.carried = b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Cut all tunnels."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listening.accept()
                self._links.append(link)
                threading.Thread(target=self._serve, args=[link], daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with link:
            request = b""
            while b"\r\n\r\n" not in request:
                piece = link.recv(4096)
                if not piece:
                    return
                request += piece
            lines = request.decode().split("\r\n")
            self.asked.append(lines[0])
            if self._answer:
                link.sendall(self._answer.encode())
                return
            if self._wanted and f"Proxy-Authorization: Basic {self._wanted}" not in lines:
                link.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self._target)) as far:
                self._links.append(far)
                link.sendall(b"HTTP/1.1 200 Connection established\r\nVia: a test\r\n\r\n")
                back = threading.Thread(target=self._pour, args=[far, link], daemon=True)
                back.start()
                self._pour(link, far)
                back.join()

    def _pour(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                self.carried += piece[:500] if len(self.carried) < 20_000 else b""
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxying(target: int, credentials: str = "", answer: str = "") -> Iterator[ConnectProxy]:
    proxy = ConnectProxy(target, credentials, answer)
    try:
        yield proxy
    finally:
        proxy.close()
