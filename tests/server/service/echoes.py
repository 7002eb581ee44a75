"""Hospitals that answer in a moment: they scale the array that they are sent, by their name."""

import contextlib
import io
import threading
import zlib

import grpc
import numpy as np

from polyclinic.fleet.wire import fleet_pb2 as wire
from tests.server.fleet.thin_hospital import Credentials, ThinHospital, digest_of

PAUSE_S = 0.05


class EchoHospital:
    """A hospital that takes part in whatever it is asked, in a thread of its own.

    Args:
        address: The coordinator's.
        site: Its name.
    """

    def __init__(self, address: str, site: str) -> None:
        self.address, self.site = address, site
        self.delay = threading.Event()  # while it is set, nothing is answered
        self._over = threading.Event()
        self._client: ThinHospital | None = None
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End without a word, as if it was killed."""
        self._over.set()
        if self._client is not None:
            self._client.close()
        self._thread.join(5)

    def _live(self) -> None:
        self._client = ThinHospital(self.address, Credentials(self.site))
        while not self._over.is_set():
            with contextlib.suppress(grpc.RpcError, StopIteration, AssertionError, ValueError):
                self._client.attend()
                self._client.holding = []
                self._serve(self._client)
            self._over.wait(PAUSE_S)

    def _serve(self, client: ThinHospital) -> None:
        while True:
            frame = client.hear()
            if frame.WhichOneof("frame") != "work":
                continue
            self._over.wait(PAUSE_S)
            while self.delay.is_set() and not self._over.is_set():
                self._over.wait(PAUSE_S)
            with contextlib.suppress(grpc.RpcError):  # nobody wants it any more
                self._answer(client, frame.work.envelope)

    def _answer(self, client: ThinHospital, question: wire.Envelope) -> None:
        entry = question.content.records[0].arrays.entries[0]
        data = answer_of(self.site, client.fetch(entry.blob.digest))
        client.offer(question.message_id, data)
        client.store(data)
        entry.blob.CopyFrom(wire.Blob(digest=digest_of(data), size=len(data)))
        envelope = wire.Envelope(reply_to=question.message_id, content=question.content)
        client.say(reply=wire.Reply(envelope=envelope))


def answer_of(site: str, data: bytes) -> bytes:
    """Return a hospital's answer to an array, both as .npy files."""
    array = np.load(io.BytesIO(data))
    file = io.BytesIO()
    np.save(file, array * np.float32(1 + zlib.crc32(site.encode()) % 7))
    return file.getvalue()
