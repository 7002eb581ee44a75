"""Many hospitals in one process, which speak Flower's Fleet API as a SuperNode does.

    python benchmarks/thin_hospitals.py FOLDER --keys KEYS --count 96 [--late 1]
    python benchmarks/thin_hospitals.py FOLDER --server HOST:PORT --count 96

With --keys, each has the key and kit in KEYS/thin-000 ...; with --server, they use plain text on
loopback. They answer as `polyclinic_client.fleet.app` would.

Everything on the wire is real: a connection, a key and signed calls of its own for every hospital,
heartbeats, the SuperNode's pace of looking for messages, the messages that polyclinic sends. Only a
hospital's inside is left out: there are no images and no training, but a random task vector of the
right shape. Flower's `grpc_request_response` is not used as a whole because it starts two more
threads for each connection and lets hospitals of one process share a connection; its stub,
interceptors and messages are used.

The program writes FOLDER/thin.json about every second: what every hospital did when, and how many
calls were made.
"""

import argparse
import contextlib
import json
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import torch
from flwr.app import Error, Message
from flwr.app.message.message import remove_content_from_message
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.grpc import GRPC_MAX_MESSAGE_LENGTH
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeVersionClientInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from polyclinic_client.fleet.supernode import IDLE_S, _Clock
from torch import Tensor, nn

from polyclinic.config.compose import instantiate, load_job
from polyclinic.federation.records import (
    Hello,
    Order,
    evaluation_reply,
    hello_reply,
    order_from_message,
    weights_from_message,
)
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.state_dict import StateDict, shared_names, state_digest, unpack
from polyclinic.security.keys import PRIVATE, load_private_key
from polyclinic.security.kit import Kit
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.system.durable import write_atomically
from polyclinic.system.processes import end_with_parent, pause_s
from polyclinic_strategies.merging.messages import (
    Assignment,
    Handover,
    confirm,
    hand_over,
    read_assignment,
    read_base,
)

WAITING_S = 0.5  # time that Flower's SuperNode sleeps while its worker is busy
LENGTH = 0.01  # size of a task vector's entries, about that of the real hospitals'
# statuses of a server that cannot be reached for the moment
UNREACHABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
CHANNEL = [
    ("grpc.max_send_message_length", GRPC_MAX_MESSAGE_LENGTH),
    ("grpc.max_receive_message_length", GRPC_MAX_MESSAGE_LENGTH),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for every hospital
]


@dataclass
class Diary:
    """Record of a hospital's steps, in seconds since 1970, and their numbers."""

    joined: float = 0.0
    greeted: float = 0.0
    based: float = 0.0  # it has the base
    ready: float = 0.0  # it has a contribution
    handed: float = 0.0  # the contribution is at the SuperLink
    settled: float = 0.0  # the coordinator has acknowledged the contribution
    digest: str = ""
    refused: str = ""
    failed: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    lost: int = 0  # messages given up because a call failed


class Line:
    """Connection of one hospital.

    Args:
        server: HOST:PORT of an insecure coordinator, where a new key is registered; None if
            there are a key and a kit.
        folder: Folder with hospital.key and kit.json.
        calls: Counts the calls by name.
        ending: Set when the process ends.
    """

    def __init__(
        self, server: str | None, folder: Path, calls: Counter[str], ending: threading.Event
    ) -> None:
        self._calls, self._ending, self._register = calls, ending, server is not None
        if server is not None:
            private, public = generate_key_pairs()
            self._channel = grpc.insecure_channel(server, CHANNEL)
        else:
            kit, private = Kit.read(folder / "kit.json"), load_private_key(folder / PRIVATE)
            public = private.public_key()
            self._channel = grpc.secure_channel(
                kit.server, grpc.ssl_channel_credentials(kit.ca.encode()), CHANNEL
            )
        self._key = public_key_to_bytes(public)
        interceptors = (
            RuntimeVersionClientInterceptor(component_name="SuperNode"),
            NodeAuthClientInterceptor(private, public),
        )
        self._stub = FleetStub(grpc.intercept_channel(self._channel, *interceptors))
        self.node = Node()

    def call(self, name: str, request: Any) -> Any:
        """Make one call, again and again while the server cannot be reached."""
        began = time.monotonic()
        while True:
            self._calls[name] += 1
            try:
                return getattr(self._stub, name)(request)
            except grpc.RpcError as error:
                if error.code() not in UNREACHABLE or self._ending.wait(
                    pause_s(time.monotonic() - began, 0.2, 5.0)
                ):
                    raise

    def open(self) -> None:
        """Connect."""
        if self._register:
            self.call("RegisterNode", RegisterNodeFleetRequest(public_key=self._key))
        request = ActivateNodeRequest(
            public_key=self._key, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        self.node = Node(node_id=self.call("ActivateNode", request).node_id)

    def close(self) -> None:
        """Disconnect; do nothing if nobody listens."""
        with contextlib.suppress(grpc.RpcError):
            self._stub.DeactivateNode(DeactivateNodeRequest(node_id=self.node.node_id), timeout=2.0)
        self._channel.close()

    def beat(self) -> None:
        """Send one heartbeat."""
        self.call(
            "SendNodeHeartbeat",
            SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL),
        )

    def pull(self) -> Message | None:
        """Return the next message, whole and confirmed."""
        found = self.call("PullMessages", PullMessagesRequest(node=self.node))
        if not found.messages_list:
            return None
        message, tree = message_from_proto(found.messages_list[0]), found.message_object_trees[0]
        run, parts = message.metadata.run_id, {}
        for each in iterate_object_tree(tree):
            parts[each.object_id] = self._part(run, each.object_id)
        identifier = message.metadata.message_id
        self.call(
            "ConfirmMessageReceived",
            ConfirmMessageReceivedRequest(node=self.node, run_id=run, message_object_id=identifier),
        )
        whole = inflate_object_from_contents(tree.object_id, parts)
        assert isinstance(whole, Message)
        whole.metadata.__dict__["_message_id"] = identifier
        return whole

    def learn(self, run: int) -> None:
        """Ask what a SuperNode asks about a run that is new to it."""
        described = self.call("GetRun", GetRunRequest(node=self.node, run_id=run)).run
        self.call("GetFab", GetFabRequest(node=self.node, hash_str=described.fab_hash, run_id=run))

    def push(self, reply: Message, seconds: float) -> None:
        """Send a reply, part by part."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run = reply.metadata.run_id
        with no_object_id_recompute():
            tree, parts = get_object_tree(reply), get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=self.node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
            answer = self.call("PushMessages", request)
            for identifier in answer.objects_to_push:
                part = PushObjectRequest(
                    node=self.node,
                    run_id=run,
                    object_id=identifier,
                    object_content=parts[identifier].deflate(),
                    session_id=answer.session_id,
                )
                self.call("PushObject", part)

    def _part(self, run: int, identifier: str) -> bytes:
        began = time.monotonic()
        while True:
            answer = self.call(
                "PullObject", PullObjectRequest(node=self.node, run_id=run, object_id=identifier)
            )
            if answer.object_available:
                return bytes(answer.object_content)
            if not answer.object_found:
                raise LookupError(
                    f"the coordinator took back a part of its message ({identifier[:12]})"
                )
            time.sleep(pause_s(time.monotonic() - began, 0.02, 2.0))


class Model:
    """The network to which all hospitals here contribute, and the bases that arrived.

    All hospitals of the process share them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._network: nn.Module | None = None
        self.bases: dict[str, StateDict] = {}

    def keep(self, order: Order, digest: str, weights: Tensor) -> None:
        """Keep a base, checked as a hospital checks it."""
        with self._lock:
            if self._network is None:
                self._network = instantiate(load_job(order.names, order.settings).model)
            assert self._network is not None
            state = unpack(weights, self._network.state_dict(), shared_names(self._network, "none"))
            assert state_digest(state) == digest
            self.bases[digest] = state


class Hospital(threading.Thread):
    """One hospital, for as long as the process lives.

    Args:
        name: The coordinator's name for it.
        server, keys: As for `Line`; `keys` holds a folder for each name.
        model: The model of the process.
        folder: Folder for its contribution, until it is acknowledged.
        after: Seconds of "training".
        ending: Set when the process ends.
    """

    def __init__(
        self,
        name: str,
        server: str | None,
        keys: Path | None,
        model: Model,
        folder: Path,
        after: float,
        ending: threading.Event,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.diary = Diary()
        self._line = Line(server, (keys or folder) / name, self.diary.calls, ending)
        self._model, self._folder, self._after, self._ending = model, folder, after, ending
        self._based: set[str] = set()
        self._runs: set[int] = set()
        self._path: Path | None = None

    def run(self) -> None:
        """Connect and serve."""
        try:
            self._line.open()
            self.diary.joined = time.time()
            self._serve()
        except Exception as error:
            self.diary.failed = f"{type(error).__name__}: {error}"[:300]
        finally:
            self._line.close()

    def _serve(self) -> None:
        clock, beaten = _Clock(), time.monotonic()
        while not self._ending.is_set():
            if time.monotonic() - beaten > 0.8 * HEARTBEAT_DEFAULT_INTERVAL:
                beaten = time.monotonic()
                self._line.beat()
            try:
                message = self._line.pull()
                if message is None:
                    clock.sleep(IDLE_S)
                    continue
                if message.metadata.run_id not in self._runs:
                    self._runs.add(message.metadata.run_id)
                    self._line.learn(message.metadata.run_id)
                began = time.monotonic()
                reply = self._answer(message)
                clock.sleep(WAITING_S)
                self._line.push(reply, time.monotonic() - began)
                if (
                    message.metadata.message_type == "query.collect"
                    and self.diary.ready
                    and not self.diary.handed
                ):
                    self.diary.handed = time.time()
            except (grpc.RpcError, LookupError):
                self.diary.lost += 1  # the run is over, or the SuperLink is another one
                if self._ending.is_set():
                    return
                clock.sleep(IDLE_S)

    def _answer(self, message: Message) -> Message:
        kind = message.metadata.message_type
        self.diary.answered[kind] += 1
        if kind == "query.hello":
            self.diary.greeted = time.time()
            return hello_reply(
                message,
                Hello(
                    self.name,
                    version("polyclinic"),
                    {"training": 1, "validation": 1, "test": 1},
                    "T1",
                ),
            )
        if kind == "query.base":
            order, digest = read_base(message)
            self._model.keep(order, digest, weights_from_message(message))
            self._based.add(digest)
            self.diary.based = self.diary.based or time.time()
            return confirm(message)
        if kind == "query.collect":
            return hand_over(message, self._collect(message))
        if kind.startswith("evaluate"):
            order_from_message(message)
            weights = weights_from_message(message)
            score = 0.5 + 1e-3 * float(weights[:100].mean())
            return evaluation_reply(message, Evaluation(0.5, {"class": score}, score, 1), 0.0)
        return Message(
            Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"a thin hospital knows no {kind}"),
            reply_to=message,
        )

    def _collect(self, message: Message) -> Handover:
        """Return what the outbox holds."""
        assignment, verdicts = read_assignment(message)
        for verdict in verdicts:
            if verdict.digest == self.diary.digest and self._path is not None:
                self.diary.settled, self.diary.refused = time.time(), verdict.reason
                self._path.unlink()
                self._path = None
        if assignment.base not in self._based:
            return Handover(needs_base=True)
        if self.diary.settled:
            return Handover()
        if time.time() < self.diary.based + self._after:
            return Handover(doing="training")
        if self._path is None:
            self._path = self._contribute(assignment)
            self.diary.digest, self.diary.ready = self._path.stem, time.time()
        return Handover(False, "handing over", self._path.stem, self._path.read_bytes())

    def _contribute(self, assignment: Assignment) -> Path:
        """Make a random task vector.

        It differs between hospitals, and is always the same for one.
        """
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        base = self._model.bases[assignment.base]
        vector = {
            name: LENGTH * torch.randn(tensor.shape, generator=generator)
            for name, tensor in base.items()
        }
        given = Contribution(
            self.name,
            assignment.base,
            assignment.task,
            1,
            {"loss": 0.5, "score": 0.5},
            time.time(),
            version("polyclinic"),
        )
        return write_contribution(self._folder, given, vector, {})


def name_of(number: int) -> str:
    """Return the name of the hospital of that number."""
    return f"thin-{number:03}"


def write_diaries(path: Path, hospitals: list[Hospital]) -> None:
    """Write what everybody did so far."""
    calls: Counter[str] = sum((hospital.diary.calls.copy() for hospital in hospitals), Counter())
    answered: Counter[str] = sum(
        (hospital.diary.answered.copy() for hospital in hospitals), Counter()
    )
    each = {
        hospital.name: {
            **vars(hospital.diary),
            "calls": sum(hospital.diary.calls.copy().values()),
            "answered": dict(hospital.diary.answered),
        }
        for hospital in hospitals
    }
    content = {"time": time.time(), "calls": calls, "answered": answered, "hospitals": each}
    write_atomically(path, json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--server", help="of an insecure coordinator")
    parser.add_argument(
        "--keys", type=Path, help="a folder for each hospital with hospital.key and kit.json"
    )
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument(
        "--late", type=int, default=0, help="so many of them come once FOLDER/go is there"
    )
    parser.add_argument(
        "--spread",
        type=float,
        default=0.0,
        help="seconds over which contributions become ready, evenly",
    )
    asked = parser.parse_args()
    assert (asked.server is None) != (asked.keys is None)
    torch.set_num_threads(1)
    end_with_parent()
    ending, model = threading.Event(), Model()

    early = asked.count - asked.late
    hospitals = [
        Hospital(
            name_of(number), asked.server, asked.keys, model, asked.folder,
            asked.spread * number / max(early, 1) if number < early else 0.0, ending,
        )
        for number in range(asked.count)
    ]  # fmt: skip
    started = hospitals[:early]
    for hospital in started:
        hospital.start()
    while True:
        time.sleep(1.0)
        if len(started) < len(hospitals) and (asked.folder / "go").exists():
            for hospital in hospitals[early:]:
                hospital.start()
            started = hospitals
        write_diaries(asked.folder / "thin.json", started)


if __name__ == "__main__":
    main()
