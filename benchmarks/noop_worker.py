"""The worker of `noop_hospital.py`: `python -m noop_worker SOCKET BLOBS NODE_CONFIG`."""

import json
import socket
import sys
import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from polyclinic.federation.envelope.content import weights_from_message
from polyclinic.federation.records import Hello, evaluation_reply, hello_reply, training_reply
from polyclinic.fleet.blobs import BlobStore
from polyclinic.learning.metrics import Evaluation
from polyclinic.system.processes import end_with_parent
from polyclinic_client.fleet.worker import Worker, serve

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Accept everything."""
    return hello_reply(message, Hello(str(context.node_config["site"]), "0", {"training": 1}))


@app.train()
def train(message: Message, _context: Context) -> Message:
    """Return the received weights, slightly changed: what is equal travels only once."""
    seconds = time.monotonic()
    weights = weights_from_message(message) + 1e-6 * (1 + seconds % 1.0)
    return training_reply(message, weights, 1, 0.0, seconds)


@app.evaluate("test")
@app.evaluate()
def evaluate(message: Message, _context: Context) -> Message:
    """Read the weights as a real hospital would, and return a score of 0."""
    weights_from_message(message)
    return evaluation_reply(message, Evaluation(0.0, {"class": 0.5}, 0.5, 1), time.monotonic())


if __name__ == "__main__":
    end_with_parent()
    number, blobs, node_config = sys.argv[1:]
    with socket.socket(fileno=int(number)) as link:
        serve(link, Worker(app, BlobStore(Path(blobs)), json.loads(node_config)))
