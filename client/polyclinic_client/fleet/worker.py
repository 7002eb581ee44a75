"""Resident worker: it runs the installed ClientApp, a message at a time, with torch imported once.

The hospital's client hands it envelopes through a socket; what is large lies in the folder of
blobs, which both use. What arrives is data, never code. An exception's text may hold a patient's
file name: only its type travels, unless it is one of our own `shareable` sentences.
"""

import json
import logging
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from polyclinic.federation.envelope import decode, encode
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.protocol import FaultCode
from polyclinic.fleet.wire.fleet_pb2 import Envelope, Fault
from polyclinic.system.faults import explain, shareable
from polyclinic.system.machine import given_cores, limit_memory
from polyclinic.system.processes import end_with_parent
from polyclinic.system.text import clean
from polyclinic_client.fleet.frames import pack, receive
from polyclinic_client.policy.limits import within_limits
from polyclinic_client.policy.policy import read_policy
from polyclinic_client.site.status import Machine, write_machine

GPUS = Path("/proc/driver/nvidia/gpus")
log = logging.getLogger("polyclinic.worker")


class Worker:
    """Answers envelopes by a ClientApp.

    Args:
        app: The app.
        store: Blobs of questions and answers.
        node_config: What the app is told of this hospital; stays on this machine.
        guard: Makes what the app works within.
    """

    def __init__(
        self,
        app: ClientApp,
        store: BlobStore,
        node_config: Mapping[str, str],
        guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._app, self._store, self._guard = app, store, guard
        self._node_config: dict[str, str | int | float | bool] = dict(node_config)
        self._contexts: dict[int, Context] = {}  # Flower keeps one for each run

    def answer(self, envelope: Envelope) -> Envelope:
        """Return the app's reply, or a fault that says no more than it may."""
        start = time.monotonic()
        code = FaultCode.WORK_INVALID
        try:
            message = decode(envelope, self._store)
            code = FaultCode.APP_FAILED
            with self._guard():
                answer = self._app(message=message, context=self._context(message))
            reply = encode(answer, self._store)
            log.info("%s took %.2f s", envelope.type, time.monotonic() - start)
        except Exception as error:
            log.exception("%s failed after %.2f s", envelope.type, time.monotonic() - start)
            if (found := explain(error)) is not None:
                log.error("%s", found)  # the client shows the log's last line
            reply = Envelope(fault=Fault(code=code, reason=shareable(error)))
        return addressed(reply, envelope)

    def _context(self, message: Message) -> Context:
        run = message.metadata.run_id
        if run not in self._contexts:
            self._contexts = {
                run: Context(
                    run_id=run,
                    node_id=message.metadata.dst_node_id,
                    node_config=self._node_config,
                    state=RecordDict(),
                    run_config={},
                )
            }
        return self._contexts[run]


def addressed(reply: Envelope, question: Envelope) -> Envelope:
    """Address a reply as the answer to a question, whatever it says itself."""
    reply.message_id = reply.message_id or uuid.uuid4().hex
    reply.reply_to, reply.type, reply.group = question.message_id, question.type, question.group
    reply.node, reply.run = question.node, question.run
    reply.created = reply.created or time.time()
    reply.ttl_s = reply.ttl_s or question.ttl_s
    return reply


def serve(link: socket.socket, worker: Worker) -> None:
    """Answer envelope after envelope until the other side ends."""
    while (question := receive(link)) is not None:
        link.sendall(pack(worker.answer(question)))


def describe_machine(memory_bytes: float, gpus: Path = GPUS) -> Machine:
    """Say what this process computes with; no GPU is touched, which would take its memory.

    Args:
        memory_bytes: What it may take.
        gpus: Where the driver says which GPUs there are.
    """
    import torch

    if torch.cuda.is_available():
        return Machine(device=_name_gpu(gpus))
    cores = given_cores()
    name = f"{cores} core{'' if cores == 1 else 's'}"
    return Machine(device=name, memory_bytes=int(memory_bytes))


def _name_gpu(gpus: Path) -> str:
    """Return the name of the first GPU; the driver writes it into a file as `Model: NAME`."""
    for path in sorted(gpus.glob("*/information")):
        with suppress(OSError):
            for line in path.read_text(errors="replace")[:4096].splitlines():
                kind, _, name = line.partition(":")
                if kind == "Model":
                    return clean(name.strip())[:80]
    return "GPU"


def main() -> None:
    """Run `python -m polyclinic_client.fleet.worker SOCKET BLOBS NODE_CONFIG`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    end_with_parent()
    from polyclinic_client.fleet.app import app

    number, blobs, node_config = sys.argv[1:]
    told = json.loads(node_config)
    state = Path(told["state"])
    memory = read_policy(state).memory_bytes
    limit_memory(memory)
    write_machine(state, describe_machine(memory))
    with socket.socket(fileno=int(number)) as link:
        link.set_inheritable(False)  # what training starts does not keep it open
        serve(link, Worker(app, BlobStore(Path(blobs)), told, lambda: within_limits(state)))


if __name__ == "__main__":
    main()
