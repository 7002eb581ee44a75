"""The way from a run's process to the hospitals of the service that started it."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import grpc

from polyclinic.errors import RunError
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.wire.fleet_pb2 import Envelope
from polyclinic_server.fleet.news import News
from polyclinic_server.fleet.open_work import replies_folder
from polyclinic_server.fleet.post import Answered
from polyclinic_server.fleet.server import BLOBS
from polyclinic_server.fleet.sessions import Node
from polyclinic_server.service.place import OPTIONS, addressed
from polyclinic_server.service.wire import desk_pb2 as wire
from polyclinic_server.service.wire.desk_pb2_grpc import DeskStub

CALL_S = 60.0  # for one call; each takes milliseconds


class ServiceGone(RunError):
    """The service of a run has ended, or does not answer."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The service that has the hospitals is gone ({problem}). It takes the run up again "
            "when it starts: `polyclinic-server serve`."
        )


def staged(blobs: Path, run: str) -> Path:
    """Return where a run writes the blobs of its questions, for the service to take over.

    Args:
        blobs: Folder of all blobs of the service.
        run: Name of the run.
    """
    return blobs / f"questions-of-{run}"


class ServedPost:
    """A run's way to the hospitals; as a context manager it takes part, and leaves.

    Args:
        fleet: The folder `.fleet` with the service's socket and its blobs.
        run: Name of the run, which the service has started.
        ledgers: Folders of the run's ledgers.
        sites: Hospitals that the run gets; all if empty.
        on_note: Told what is to be known in the run's journal.
    """

    def __init__(
        self,
        fleet: Path,
        run: str,
        ledgers: Iterable[Path] = (),
        sites: Iterable[str] = (),
        on_note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._fleet, self._run, self._on_note = fleet, run, on_note
        self._blobs = fleet / BLOBS
        self._request = wire.AttachRequest(run=run, ledgers=map(str, ledgers), sites=sites)
        self._news = News()
        self._gone = ""
        self._writing = threading.RLock()
        self._stack = ExitStack()
        self.address = ""

    def __enter__(self) -> Self:
        address = self._stack.enter_context(addressed(self._fleet))
        channel = self._stack.enter_context(grpc.insecure_channel(address, OPTIONS))
        self._stub: Any = DeskStub(channel)  # type: ignore[no-untyped-call]
        self._staged = BlobStore(staged(self._blobs, self._run))
        stream = self._stub.Attach(self._request)
        self._stack.callback(stream.cancel)
        try:
            self.address = next(stream).address
        except (grpc.RpcError, StopIteration) as error:
            self._stack.close()
            _give_up(error)
        threading.Thread(target=self._listen, args=(stream,), name="news", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def nodes(self) -> list[Node]:
        """Return the run's hospitals that are online, by name."""
        found = self._call(self._stub.Nodes, wire.RunName(run=self._run)).nodes
        return [Node(each.number, each.online_until, each.activated, each.name) for each in found]

    @contextmanager
    def writing(self) -> Iterator[BlobStore]:
        """Yield the store for the blobs of questions, which are sent inside the `with` block."""
        with self._writing:
            yield self._staged

    def send(self, questions: Sequence[Envelope]) -> list[bool]:
        """Send questions, and return which of them are to hospitals that are known."""
        if not questions:
            return []
        asked = [wire.Question(run=self._run, envelope=each) for each in questions]
        return list(self._call(self._stub.Send, iter(asked)).known)

    def take(self, identifiers: Iterable[str]) -> list[Answered]:
        """Return the replies to these questions that have arrived; each is returned once."""
        answers = self._call(self._take, self._named(identifiers))
        return [
            Answered(each.envelope, each.site, BlobStore(replies_folder(self._blobs, each.site)))
            for each in answers
        ]

    def done(self, answered: Answered) -> None:
        """Remove the blobs of a reply that was taken and read."""
        self._call(self._stub.Done, self._named([answered.envelope.reply_to]))

    def open(self, identifiers: Iterable[str]) -> list[str]:
        """Return those of these questions that are neither taken nor forgotten."""
        return list(self._call(self._stub.Open, self._named(identifiers)).identifiers)

    def wait(self, timeout_s: float) -> bool:
        """Wait for news since this thread's last wait, and return whether there is any.

        Raises:
            ServiceGone: The service has ended.
        """
        new = self._news.wait(timeout_s)
        if self._gone:
            raise ServiceGone(self._gone)
        return new

    def _named(self, identifiers: Iterable[str]) -> wire.Identifiers:
        return wire.Identifiers(run=self._run, identifiers=identifiers)

    def _take(self, request: wire.Identifiers, timeout: float) -> list[wire.Answer]:
        return list(self._stub.Take(request, timeout=timeout))

    def _call(self, call: Callable[..., Any], request: object) -> Any:
        try:
            return call(request, timeout=CALL_S)
        except grpc.RpcError as error:
            _give_up(error)

    def _listen(self, stream: Iterable[wire.News]) -> None:
        """Pass on what the service tells, until it ends."""
        try:
            for told in stream:
                for text in told.notes:
                    self._on_note(text)
                self._news.tell()
            self._gone = "it ended the run's line"
        except grpc.RpcError as error:
            self._gone = _said(error)
        self._news.tell()


def _give_up(error: Exception) -> NoReturn:
    raise ServiceGone(_said(error)) from error


def _said(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.RpcError) else "it says nothing"
