"""A hospital that answers at once, so that a round's time is that of the federation itself.

It runs as `python benchmarks/noop_hospital.py RUNTIME SECRET_FILE SITE`, in place of
`polyclinic_client.fleet.worker`'s own ClientApp.
"""

import logging
import sys
import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from polyclinic.federation.records import (
    Hello,
    evaluation_reply,
    hello_reply,
    training_reply,
    weights_from_message,
)
from polyclinic.learning.metrics import Evaluation
from polyclinic.system.processes import end_with_parent
from polyclinic_client.fleet.worker import serve

app = ClientApp()


@app.query("hello")
def hello(message: Message, _context: Context) -> Message:
    """Accept everything."""
    return hello_reply(message, Hello(sys.argv[3], "0", {"training": 1}))


@app.train()
def train(message: Message, _context: Context) -> Message:
    """Return the received weights, slightly changed.

    Flower sends equal parts only once, and those of real hospitals are never equal.
    """
    seconds = time.monotonic()
    return training_reply(
        message, weights_from_message(message) + 1e-6 * (seconds % 1.0), 1, 0.0, seconds
    )


@app.evaluate()
def evaluate(message: Message, _context: Context) -> Message:
    """Read the weights as a real hospital would, and return a score of 0."""
    weights_from_message(message)
    return evaluation_reply(message, Evaluation(0.0, {"class": 0.5}, 0.5, 1), time.monotonic())


if __name__ == "__main__":
    logging.getLogger("httpx").setLevel(logging.WARNING)
    end_with_parent()
    serve(sys.argv[1], Path(sys.argv[2]).read_bytes(), app)
