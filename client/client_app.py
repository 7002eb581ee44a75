"""Flower's ClientApp: takes a message apart, lets the hospital's `Site` do the work, puts the answer together."""

import time

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.site import compute_slot, open_site
from strategies.records import evaluation_reply, hello_reply, order_from_message, training_reply, weights_from_message

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who this hospital is, and whether it can do what the run asks."""
    with compute_slot():
        return hello_reply(message, open_site(context.node_config).greet(order_from_message(message)))


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of training."""
    start = time.monotonic()
    with compute_slot():
        trained = open_site(context.node_config).train(order_from_message(message), weights_from_message(message))
    result = trained.result
    return training_reply(message, trained.weights, result.num_examples, result.loss, time.monotonic() - start)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Figures on the validation cases."""
    start = time.monotonic()
    with compute_slot():
        evaluation = open_site(context.node_config).validate(order_from_message(message), weights_from_message(message))
    return evaluation_reply(message, evaluation, time.monotonic() - start)


@app.evaluate("test")
def test(message: Message, context: Context) -> Message:
    """Final figures on the test cases."""
    start = time.monotonic()
    with compute_slot():
        evaluation = open_site(context.node_config).test(order_from_message(message), weights_from_message(message))
    return evaluation_reply(message, evaluation, time.monotonic() - start)
