"""What an enrolled key may do, and that it is always that key's site."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.node_pb2 import Node
from flwr.supercore.interceptors import RuntimeVersionClientInterceptor

from polyclinic.security.keys import load_private_key, public_pem
from polyclinic_client.fleet.connection import Connection
from tests.server.fleet.coordinators import Coordinator, coordinator

PATIENCE_S = 10.0


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Coordinator]:
    with coordinator(tmp_path / "lab") as running:
        yield running


class Fleet:
    """Flower's Fleet API as a hospital's SuperNode calls it."""

    def __init__(self, hospital: Connection) -> None:
        assert hospital.kit is not None and hospital.key is not None
        key = load_private_key(hospital.key)
        self.pem = public_pem(key.public_key())
        self.channel = grpc.secure_channel(
            hospital.server, grpc.ssl_channel_credentials(hospital.kit.ca.encode())
        )
        interceptors = [
            RuntimeVersionClientInterceptor(component_name="SuperNode"),
            NodeAuthClientInterceptor(key, key.public_key()),
        ]
        self.stub: Any = FleetStub(grpc.intercept_channel(self.channel, *interceptors))  # type: ignore[no-untyped-call]

    def activate(self, pem: bytes = b"") -> int:
        request = ActivateNodeRequest(public_key=pem or self.pem, heartbeat_interval=30)
        return int(self.stub.ActivateNode(request, timeout=PATIENCE_S).node_id)

    def pull(self, node: int) -> Any:
        return self.stub.PullMessages(
            PullMessagesRequest(node=Node(node_id=node)), timeout=PATIENCE_S
        )


@pytest.fixture
def mary(lab: Coordinator) -> Iterator[Fleet]:
    fleet = Fleet(lab.hospital("st-mary"))
    yield fleet
    fleet.channel.close()


@pytest.fixture
def john(lab: Coordinator) -> Iterator[Fleet]:
    fleet = Fleet(lab.hospital("st-john"))
    yield fleet
    fleet.channel.close()


def test_an_enrolled_key_becomes_a_node_of_its_sites_name(lab: Coordinator, mary: Fleet) -> None:
    node = mary.activate()
    (info,) = lab.state.state().get_node_info()
    assert (info.node_id, info.name) == (node, "st-mary")
    assert list(mary.pull(node).messages_list) == []


def test_a_hospital_that_comes_back_takes_its_own_place_again_at_once(
    lab: Coordinator, mary: Fleet
) -> None:
    node = mary.activate()
    before = [info.last_activated_at for info in lab.state.state().get_node_info()]
    time.sleep(0.01)
    assert mary.activate() == node
    assert [info.last_activated_at for info in lab.state.state().get_node_info()] > before


def test_nobody_pulls_messages_of_another_node(mary: Fleet, john: Fleet) -> None:
    node = mary.activate()
    john.activate()
    with pytest.raises(grpc.RpcError) as raised:
        john.pull(node)
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_nobody_activates_the_node_of_another_key(mary: Fleet, john: Fleet) -> None:
    mary.activate()
    with pytest.raises(grpc.RpcError) as raised:
        john.activate(mary.pem)
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_nobody_registers_a_key_by_itself(mary: Fleet) -> None:
    with pytest.raises(grpc.RpcError):
        mary.stub.RegisterNode(RegisterNodeFleetRequest(public_key=mary.pem), timeout=PATIENCE_S)


def test_a_key_that_is_revoked_is_cut_off_at_its_next_call(lab: Coordinator, mary: Fleet) -> None:
    node = mary.activate()
    lab.registry.revoke("st-mary", "left")
    time.sleep(1.1)
    with pytest.raises(grpc.RpcError) as raised:
        mary.pull(node)
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
