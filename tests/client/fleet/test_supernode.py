"""A SuperNode that has given up must end, so that the hospital's client starts another."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from flwr.proto import fleet_pb2, fleet_pb2_grpc, heartbeat_pb2

from polyclinic.system.processes import free_port
from polyclinic_client.fleet.connection import Connection
from polyclinic_client.fleet.pair import supernode

pytestmark = pytest.mark.e2e


class Fleet(fleet_pb2_grpc.FleetServicer):
    """A Fleet API that fails in one method from its third call on."""

    def __init__(self, method: str, code: grpc.StatusCode) -> None:
        self._method, self._code = method, code
        self._calls = 0

    def _answer(self, method: str, context: Any, answer: Any) -> Any:
        self._calls += method == self._method
        if method == self._method and self._calls >= (3 if method == "PullMessages" else 1):
            context.abort(self._code, "made up")
        return answer

    def RegisterNode(self, request: Any, context: Any) -> Any:  # noqa: N802  # Flower's names
        return self._answer("RegisterNode", context, fleet_pb2.RegisterNodeFleetResponse())

    def ActivateNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("ActivateNode", context, fleet_pb2.ActivateNodeResponse(node_id=7))

    def DeactivateNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("DeactivateNode", context, fleet_pb2.DeactivateNodeResponse())

    def UnregisterNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("UnregisterNode", context, fleet_pb2.UnregisterNodeFleetResponse())

    def SendNodeHeartbeat(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(
            "SendNodeHeartbeat", context, heartbeat_pb2.SendNodeHeartbeatResponse(success=True)
        )

    def PullMessages(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("PullMessages", context, fleet_pb2.PullMessagesResponse())


@contextmanager
def serving(fleet: Fleet) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(8))
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize(
    ("method", "code"),
    [("PullMessages", grpc.StatusCode.CANCELLED), ("SendNodeHeartbeat", grpc.StatusCode.INTERNAL)],
)
def test_it_ends_when_flower_gives_up(method: str, code: grpc.StatusCode, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 32)
    with serving(Fleet(method, code)) as address:
        child = supernode(
            Connection(address, "a"), free_port(), tmp_path, tmp_path / "secret", {"site": "a"}
        )
        child.start()
        try:
            assert child.wait(60.0) is not None, child.log.read_text()
        finally:
            child.stop()
