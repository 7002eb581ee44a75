"""A worker whose answers are known: `python -m tests.compatibility.conversation_worker ...`."""

import json
import socket
import sys
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from polyclinic.federation.envelope.content import weights_from_message
from polyclinic.federation.records import Hello, evaluation_reply, hello_reply, training_reply
from polyclinic.fleet.blobs import BlobStore
from polyclinic.learning.metrics import Evaluation
from polyclinic.system.processes import end_with_parent
from polyclinic_client.fleet.worker import Worker, serve

EVALUATION = Evaluation(0.25, {"liver": 0.75}, 0.75, 4)
app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Introduce a hospital."""
    cases = {"training": 3, "validation": 1, "test": 2}
    return hello_reply(message, Hello(str(context.node_config["site"]), "0", cases, "T1"))


@app.train()
def train(message: Message, _context: Context) -> Message:
    """Return twice the weights."""
    return training_reply(message, 2 * weights_from_message(message), 3, 0.5, 1.5)


@app.evaluate("test")
def evaluate(message: Message, _context: Context) -> Message:
    """Return a score."""
    weights_from_message(message)
    return evaluation_reply(message, EVALUATION, 0.5)


def main() -> None:
    """Serve."""
    number, blobs, node_config = sys.argv[1:]
    end_with_parent()
    with socket.socket(fileno=int(number)) as link:
        serve(link, Worker(app, BlobStore(Path(blobs)), json.loads(node_config)))


if __name__ == "__main__":
    main()
