"""The end of a joined connection that speaks TLS.

asyncio's own TLS keeps a buffer of 256 kB for each connection, whether or not anything comes. Here
a silent hospital costs what OpenSSL needs.
"""

import asyncio
import contextlib
import ssl

from polyclinic_server.fleet.pipe import Pipe

RECORD_BYTES = 16 * 1024  # most that one record of TLS holds
PIECE_BYTES = 4 * RECORD_BYTES  # given to OpenSSL at once, whose buffers grow with it, and stay


class TlsPipe(Pipe):
    """One end of a joined connection: TLS outside, plain bytes inside.

    Args:
        context: The server's certificate and settings.
        trusted: See `Pipe`.
    """

    def __init__(self, context: ssl.SSLContext, *, trusted: bool = True) -> None:
        super().__init__(trusted=trusted)
        self._encrypted, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._encrypted, self._outgoing, server_side=True)
        self._shaken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def shake_hands(self, timeout_s: float) -> None:
        """Wait for the end of the handshake.

        Raises:
            ssl.SSLError: It failed.
            ConnectionError: The other side left, or took longer than `timeout_s` seconds.
        """
        done, _ = await asyncio.wait(
            [self._shaken, self._lost], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if self._shaken not in done:
            self.abort()
            raise ConnectionError("no handshake")
        self._shaken.result()

    def send(self, data: bytes) -> None:
        """Encrypt, and send."""
        encrypted = []
        for start in range(0, len(data), PIECE_BYTES):
            self._tls.write(memoryview(data)[start : start + PIECE_BYTES])
            encrypted.append(self._outgoing.read())
        super().send(b"".join(encrypted))

    def close(self) -> None:
        """Say that nothing more comes, and close once all is sent."""
        if self._is_open():
            # it wants the other side's word, for which nobody waits; or there was no handshake
            with contextlib.suppress(ssl.SSLError, ValueError):
                self._tls.unwrap()
            self._flush()
        super().close()

    def data_received(self, data: bytes) -> None:
        """Part of asyncio's interface."""
        plain: list[bytes] = []
        ended = False
        try:
            for start in range(0, len(data), PIECE_BYTES):
                self._encrypted.write(memoryview(data)[start : start + PIECE_BYTES])
                if not ended and (self._shaken.done() or self._has_shaken()):
                    ended = self._decrypt(plain)
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()  # tickets, and answers to a change of keys
        if plain:
            super().data_received(b"".join(plain))
        if ended:
            self.close()

    def _has_shaken(self) -> bool:
        """Go on with the handshake; tell whether it is over."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        self._shaken.set_result(None)
        return True

    def _decrypt(self, plain: list[bytes]) -> bool:
        """Add what can be read; tell whether the other side has said that nothing more comes."""
        while True:
            try:
                record = self._tls.read(RECORD_BYTES)
            except ssl.SSLWantReadError:
                return False
            except ssl.SSLZeroReturnError:
                return True
            if not record:
                return True
            plain.append(record)

    def _fail(self, error: ssl.SSLError) -> None:
        """End a connection that does not keep to TLS; an alert, if there is one, goes out first."""
        self._flush()
        if not self._shaken.done():
            self._shaken.set_exception(error)
        super().close()

    def _flush(self) -> None:
        if self._outgoing.pending and self._is_open():
            assert self._transport is not None
            self._transport.write(self._outgoing.read())
