"""Flower's ClientApp: it reads a message, lets the hospital do the work, and writes the answer."""

import time

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from polyclinic.describing.statistics import with_variances
from polyclinic.federation.envelope.content import weights_from_message
from polyclinic.federation.records import (
    evaluation_reply,
    hello_reply,
    order_from_message,
    training_reply,
)
from polyclinic_client.site.compute_slots import compute_slot
from polyclinic_client.site.open_sites import open_site
from polyclinic_strategies.merging.messages import confirm, hand_over, read_assignment, read_base
from polyclinic_strategies.refinement.messages import (
    describe_reply,
    has_weights,
    read_question,
    read_refined,
)

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who this hospital is, and whether it can do what the run asks."""
    with compute_slot():
        return hello_reply(
            message, open_site(context.node_config).greet(order_from_message(message))
        )


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train for one round."""
    start = time.monotonic()
    with compute_slot():
        trained = open_site(context.node_config).train(
            order_from_message(message), weights_from_message(message)
        )
    result = trained.result
    return training_reply(
        message, trained.weights, result.num_examples, result.loss, time.monotonic() - start
    )


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the federation's weights on the validation cases."""
    start = time.monotonic()
    with compute_slot():
        evaluation = open_site(context.node_config).validate(
            order_from_message(message), weights_from_message(message)
        )
    return evaluation_reply(message, evaluation, time.monotonic() - start)


@app.evaluate("score")
def score(message: Message, context: Context) -> Message:
    """Score a candidate on the validation cases."""
    return evaluate(message, context)


@app.query("collect")
def collect(message: Message, context: Context) -> Message:
    """Hand over what the outbox holds; never wait for training, which is another process."""
    assignment, verdicts = read_assignment(message)
    return hand_over(message, open_site(context.node_config).hand_over(assignment, verdicts))


@app.query("base")
def base(message: Message, context: Context) -> Message:
    """Keep the model to start from."""
    order, digest = read_base(message)
    open_site(context.node_config).keep_base(order, digest, weights_from_message(message))
    return confirm(message)


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Describe the images; read no label."""
    start = time.monotonic()
    asked = read_question(message)
    names = with_variances(asked.statistics) if asked.variances else asked.statistics
    weights = weights_from_message(message) if has_weights(message) else None
    with compute_slot():
        site = open_site(context.node_config)
        means, subjects = site.describe(asked.order, names, asked.release, weights)
    return describe_reply(message, means, subjects, time.monotonic() - start)


@app.query("refined")
def refined(message: Message, context: Context) -> Message:
    """Keep the model that was made for this hospital."""
    order, number = read_refined(message)
    open_site(context.node_config).receive(order, weights_from_message(message), number)
    return confirm(message)


@app.evaluate("test")
def test(message: Message, context: Context) -> Message:
    """Score the final weights on the test cases."""
    start = time.monotonic()
    with compute_slot():
        evaluation = open_site(context.node_config).test(
            order_from_message(message), weights_from_message(message)
        )
    return evaluation_reply(message, evaluation, time.monotonic() - start)
