"""The desk of a service, as another process on this machine sees it."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import grpc

from polyclinic.errors import PolyclinicError, RunError
from polyclinic_server.service.desk import HospitalSnapshot, RunSnapshot
from polyclinic_server.service.desk_server import EXIT_CODE
from polyclinic_server.service.place import OPTIONS, addressed
from polyclinic_server.service.served_post import ServiceGone
from polyclinic_server.service.served_run import START_S, RunRefused
from polyclinic_server.service.wire import desk_pb2 as wire
from polyclinic_server.service.wire.desk_pb2_grpc import DeskStub

CALL_S = 60.0


class ServedDesk:
    """The desk behind a channel; see `polyclinic_server.service.desk.Desk`.

    Args:
        channel: To the service.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub: Any = DeskStub(channel)  # type: ignore[no-untyped-call]

    def hospitals(self) -> tuple[HospitalSnapshot, ...]:
        """Return all hospitals that are enrolled or have come, by name."""
        found = _call(self._stub.Hospitals, wire.Nothing())
        rows = [json.loads(each) for each in found.snapshots]
        return tuple(HospitalSnapshot(**{**row, "runs": tuple(row["runs"])}) for row in rows)

    def runs(self) -> tuple[RunSnapshot, ...]:
        """Return the runs in hand, by name; all others are folders alone."""
        found = _call(self._stub.Runs, wire.Nothing())
        return tuple(RunSnapshot(**json.loads(each)) for each in found.snapshots)

    def start(self, settings: Sequence[str], name: str | None = None) -> str:
        """Start a run; relative paths in its settings begin in the present folder.

        Raises:
            RunError: A setting is wrong, or the name is taken; it has the reason's exit code.
        """
        request = wire.StartRequest(settings=settings, name=name or "", folder=str(Path.cwd()))
        return str(_call(self._stub.Start, request, START_S).run)

    def stop(self, name: str) -> None:
        """Stop a run.

        Raises:
            RunError: There is no such run in hand.
        """
        _call(self._stub.Stop, wire.RunName(run=name))

    def resume(self, name: str, settings: Sequence[str] = ()) -> str:
        """Resume a run, perhaps with other settings of its deployment, and return its name.

        Raises:
            RunError: There is none of that name, it is finished, or it goes on already.
        """
        request = wire.StartRequest(name=name, settings=settings, folder=str(Path.cwd()))
        return str(_call(self._stub.Resume, request, START_S).run)


@contextmanager
def desk_of(fleet: Path) -> Iterator[ServedDesk]:
    """Yield the desk of the service that listens in a folder `.fleet`."""
    with addressed(fleet) as address, grpc.insecure_channel(address, OPTIONS) as channel:
        yield ServedDesk(channel)


def give_up(fleet: Path, run: str, error: PolyclinicError) -> None:
    """Tell the service why a run cannot start."""
    problem = wire.Problem(run=run, reason=str(error), exit_code=error.exit_code)
    with addressed(fleet) as address, grpc.insecure_channel(address, OPTIONS) as channel:
        _call(DeskStub(channel).GiveUp, problem)  # type: ignore[no-untyped-call]


def _call(call: Callable[..., Any], request: object, timeout_s: float = CALL_S) -> Any:
    try:
        return call(request, timeout=timeout_s)
    except grpc.RpcError as error:
        _explain(error)


def _explain(error: Any) -> NoReturn:
    """Raise what the service says; it is gone if it says nothing."""
    if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
        raise ServiceGone(str(error.details())) from error
    said = dict(error.trailing_metadata() or ())
    code = str(said.get(EXIT_CODE, RunError.exit_code))
    raise RunRefused(str(error.details()), int(code) if code.isdigit() else RunError.exit_code)
