"""The calls of `desk.proto`: runs' processes reach the hospitals, and commands the desk."""

import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import grpc

from polyclinic.errors import PolyclinicError
from polyclinic.fleet.blobs import BlobMissing
from polyclinic.fleet.contents import named_blobs
from polyclinic_server.fleet.post import OwnPost
from polyclinic_server.service.desk import Desk
from polyclinic_server.service.place import OPTIONS, addressed
from polyclinic_server.service.wire import desk_pb2 as wire
from polyclinic_server.service.wire.desk_pb2_grpc import DeskServicer, add_DeskServicer_to_server

THREADS = 128  # a run takes one as long as it lives, and one for each call
BEAT_S = 1.0  # longest wait before a run hears something
STOP_S = 1.0
EXIT_CODE = "polyclinic-exit-code"  # metadata of a refusal: that of the command


class AttachedRun(Protocol):
    """A run's process that takes part."""

    @property
    def post(self) -> OwnPost:
        """Its way to the hospitals."""
        ...

    @property
    def staged(self) -> Path:
        """Folder with the blobs of its questions."""
        ...

    def notes(self) -> list[str]:
        """Return what is to be known in its journal, once."""
        ...


class Host(Desk, Protocol):
    """The service behind the calls."""

    @property
    def address(self) -> str:
        """Of the port for hospitals."""
        ...

    def attach(self, run: str, ledgers: Iterable[Path], sites: Iterable[str]) -> AttachedRun:
        """Let a run's process take part.

        Raises:
            RunError: The service has not started it, or it takes part already.
        """
        ...

    def detach(self, run: str) -> None:
        """Note that a run's process takes part no more."""
        ...

    def attached(self, run: str) -> AttachedRun:
        """Return a run that takes part.

        Raises:
            RunError: It does not.
        """
        ...

    def give_up(self, run: str, reason: str, exit_code: int) -> None:
        """Note that a run did not come so far as to take part, and why."""
        ...

    def start_in(self, folder: Path, settings: list[str], name: str | None) -> str:
        """Start a run whose relative paths begin in a folder; see `Desk.start`."""
        ...

    def resume_in(self, folder: Path, settings: list[str], name: str) -> str:
        """Resume a run; relative paths in its settings begin in a folder, if that is not known."""
        ...


class DeskServer(DeskServicer):
    """The calls.

    Args:
        host: The service.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def Attach(self, request: Any, context: Any) -> Iterator[wire.News]:  # noqa: N802
        """Let a run take part until it ends the call."""
        ledgers = [Path(each) for each in request.ledgers]
        with _explained(context):
            run = self._host.attach(request.run, ledgers, request.sites)
        over = threading.Event()

        def leave() -> None:
            over.set()
            self._host.detach(request.run)

        if not context.add_callback(leave):
            leave()
        yield wire.News(address=self._host.address)
        while not over.is_set():
            new = run.post.wait(BEAT_S)
            notes = run.notes()
            if new or notes:
                yield wire.News(notes=notes)

    def GiveUp(self, request: Any, _context: Any) -> wire.Nothing:  # noqa: N802
        """Take a run's word that it cannot start."""
        self._host.give_up(request.run, request.reason, request.exit_code)
        return wire.Nothing()

    def Nodes(self, request: Any, context: Any) -> wire.NodeList:  # noqa: N802
        """Return a run's hospitals that are online."""
        with _explained(context):
            nodes = self._host.attached(request.run).post.nodes()
        return wire.NodeList(
            nodes=[
                wire.Node(
                    number=node.node_id,
                    online_until=node.online_until,
                    activated=node.last_activated_at,
                    name=node.name,
                )
                for node in nodes
            ]
        )

    def Send(self, requests: Iterable[Any], context: Any) -> wire.Sent:  # noqa: N802
        """Take over questions with their blobs, and send them."""
        questions = list(requests)
        with _explained(context):
            run = self._host.attached(questions[0].run)
            envelopes = [each.envelope for each in questions]
            digests = {digest for each in envelopes for digest in named_blobs(each)}
            with run.post.writing() as store:
                for digest in digests:
                    store.adopt(run.staged / digest)
                return wire.Sent(known=run.post.send(envelopes))

    def Take(self, request: Any, context: Any) -> Iterator[wire.Answer]:  # noqa: N802
        """Return replies."""
        with _explained(context):
            taken = self._host.attached(request.run).post.take(request.identifiers)
        for each in taken:
            yield wire.Answer(envelope=each.envelope, site=each.site)

    def Done(self, request: Any, context: Any) -> wire.Nothing:  # noqa: N802
        """Remove the blobs of replies."""
        with _explained(context):
            self._host.attached(request.run).post.done_with(request.identifiers)
        return wire.Nothing()

    def Open(self, request: Any, context: Any) -> wire.Identifiers:  # noqa: N802
        """Return which questions are neither taken nor forgotten."""
        with _explained(context):
            left = self._host.attached(request.run).post.open(request.identifiers)
        return wire.Identifiers(run=request.run, identifiers=left)

    def Hospitals(self, _request: Any, _context: Any) -> wire.Snapshots:  # noqa: N802
        """Return what is known of hospitals."""
        return _snapshots(self._host.hospitals())

    def Runs(self, _request: Any, _context: Any) -> wire.Snapshots:  # noqa: N802
        """Return the runs in hand."""
        return _snapshots(self._host.runs())

    def Start(self, request: Any, context: Any) -> wire.RunName:  # noqa: N802
        """Start a run."""
        with _explained(context):
            folder, settings = Path(request.folder), list(request.settings)
            return wire.RunName(run=self._host.start_in(folder, settings, request.name or None))

    def Stop(self, request: Any, context: Any) -> wire.Nothing:  # noqa: N802
        """Stop a run."""
        with _explained(context):
            self._host.stop(request.run)
        return wire.Nothing()

    def Resume(self, request: Any, context: Any) -> wire.RunName:  # noqa: N802
        """Resume a run."""
        with _explained(context):
            folder, settings = Path(request.folder), list(request.settings)
            return wire.RunName(run=self._host.resume_in(folder, settings, request.name))


@contextmanager
def served(host: Host, fleet: Path) -> Iterator[None]:
    """Answer on the socket in a folder `.fleet` inside the `with` block."""
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(THREADS, "desk")
        server = grpc.server(pool, options=OPTIONS)
        add_DeskServicer_to_server(DeskServer(host), server)  # type: ignore[no-untyped-call]
        server.add_insecure_port(stack.enter_context(addressed(fleet)))
        server.start()
        try:
            yield
        finally:
            server.stop(STOP_S).wait()
            pool.shutdown(wait=False)


@contextmanager
def _explained(context: Any) -> Iterator[None]:
    """Answer an error of ours with its sentence and its command's exit code."""
    try:
        yield
    except (PolyclinicError, BlobMissing) as error:
        code = getattr(error, "exit_code", 5)
        context.set_trailing_metadata(((EXIT_CODE, str(code)),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))


def _snapshots(found: Iterable[Any]) -> wire.Snapshots:
    return wire.Snapshots(snapshots=[json.dumps(asdict(each)) for each in found])
