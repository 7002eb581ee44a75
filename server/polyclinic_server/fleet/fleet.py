"""`python -m polyclinic_server.fleet.fleet`: Flower's SuperLink with our Fleet server in it, which ends when the coordinator is gone.

Flower's own Fleet server is replaced for three reasons: the gate must stand before it, TLS ends at the door, and hospitals must be allowed
to ask every few seconds whether the connection still lives (gRPC closes connections that ping more than every five minutes).
"""

import importlib
import os
import resource
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from flwr.proto.fleet_pb2_grpc import add_FleetServicer_to_server
from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.corestate import in_memory_corestate
from flwr.supercore.interceptors import (
    RpcErrorTranslationServerInterceptor,
    create_fleet_runtime_version_server_interceptor,
)
from flwr.supercore.object_store import ObjectStoreFactory

from polyclinic.system.processes import end_with_parent, parse_address
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.endpoint import CHANNEL_OPTIONS
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.fleet.door import Door
from polyclinic_server.fleet.gate import Gate
from polyclinic_server.fleet.superlink import SECURITY, SOCKETS

CALLS = 256  # answered at the same time; each is short
SESSION_S = 3600  # how long a part of 5 MB may take to arrive; with Flower's three minutes a line under 0.5 Mbit/s hands in nothing
LARGEST_BYTES = 2**24  # of one call's message; Flower sends a model in parts of 5 MB
OPTIONS = [
    ("grpc.max_send_message_length", LARGEST_BYTES),
    ("grpc.max_receive_message_length", LARGEST_BYTES),
    *CHANNEL_OPTIONS,
]


def serve_fleet(
    address: str,
    state_factory: LinkStateFactory,
    objectstore_factory: ObjectStoreFactory,
    **_flowers: Any,
) -> grpc.Server:
    """The Fleet API, behind the gate; behind the door too, if there is a security folder. Stands in for Flower's function of this purpose.

    Args:
        address: HOST:PORT that hospitals dial.
        state_factory, objectstore_factory: Flower's state.
    """
    folder = os.environ.get(SECURITY)  # empty: no TLS and no keys, on loopback
    registry = Registry(Path(folder)) if folder else None
    gate = Gate(registry, state_factory, secrets.token_hex(8))
    server = grpc.server(
        ThreadPoolExecutor(CALLS),
        interceptors=[
            RpcErrorTranslationServerInterceptor(),
            gate,
            create_fleet_runtime_version_server_interceptor(),
        ],
        options=OPTIONS,
    )
    add_FleetServicer_to_server(
        FleetServicer(
            state_factory, objectstore_factory, enable_supernode_auth=registry is not None
        ),
        server,
    )
    if registry is None:
        server.add_insecure_port(address)
        server.start()
        return server
    inner = Path(os.environ[SOCKETS]) / "fleet"  # only this user can enter
    server.add_insecure_port(f"unix:{inner}")
    server.start()
    Door(*parse_address(address), Authority.open(Path(str(folder))), inner, registry.note).open()
    return server


def main() -> None:
    """The SuperLink process."""
    end_with_parent()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most, most)
    )  # four files for each connected hospital
    sys.argv[0] = "flower-superlink"
    flower = importlib.import_module(
        "flwr.superlink.cli.flower_superlink"
    )  # its package has a function of the same name
    in_memory_corestate.OBJECT_PUSH_SESSION_TTL_SECONDS = SESSION_S  # type: ignore[attr-defined]
    flower._run_fleet_api_grpc_rere = serve_fleet  # type: ignore[attr-defined]
    flower.flower_superlink()


if __name__ == "__main__":
    main()
