"""Flower's ClientApp: it reads a message, lets the hospital do the work, and writes the answer."""

import time
from collections.abc import Mapping

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from polyclinic.describing.statistics import with_variances
from polyclinic.federation.envelope.content import weights_from_message
from polyclinic.federation.records import (
    config_of,
    evaluation_reply,
    hello_reply,
    order_from_message,
    training_figures,
    training_reply,
)
from polyclinic.federation.secure_sums.messages import (
    MaskQuestion,
    OfferQuestion,
    RevealQuestion,
    ShareQuestion,
    SurviveQuestion,
    answer,
    offered_reply,
    read_asked,
    terms_of,
    words_reply,
)
from polyclinic_client.sent.by_flower import by_flower
from polyclinic_client.site.compute_slots import compute_slot
from polyclinic_client.site.entering import at_the_gate
from polyclinic_client.site.open_sites import open_site
from polyclinic_client.sums import membership
from polyclinic_client.sums.identity import identity_of
from polyclinic_strategies.merging.messages import confirm, hand_over, read_assignment, read_base
from polyclinic_strategies.refinement.messages import (
    describe_reply,
    has_weights,
    read_question,
    read_refined,
)

app = ClientApp(mods=[at_the_gate, by_flower])


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
    result, seconds = trained.result, time.monotonic() - start
    return training_reply(
        message, trained.weights, result.num_examples, result.loss, seconds, trained.epsilon
    )


@app.train("sum")
def train_for_sum(message: Message, context: Context) -> Message:
    """Train for one round whose updates are summed; only keys leave, unless sums are in the clear.

    The update stays here until the questions below ask for it, masked.
    """
    start = time.monotonic()
    site, terms = open_site(context.node_config), terms_of(message)
    asked = weights_from_message(message)
    with compute_slot():
        trained = site.train(order_from_message(message), asked)
        prepared = membership.quantize(terms, trained.weights.numpy(), asked.numpy())
    result, seconds = trained.result, time.monotonic() - start
    figures = training_figures(result.num_examples, result.loss, seconds, trained.epsilon)
    return _into_sum(message, context, prepared, figures)


@app.query("offer")
def offer(message: Message, context: Context) -> Message:
    """Take a place in a sum with a contribution that is ready; it stays here."""
    site, question = open_site(context.node_config), read_asked(OfferQuestion, message)
    return _into_sum(message, context, membership.ready(site, terms_of(message), question))


def _into_sum(
    message: Message,
    context: Context,
    prepared: membership.Prepared,
    figures: Mapping[str, float] = {},
) -> Message:
    """Answer with the keys for a place in a sum; or with the vector, if it is in the clear."""
    site, terms = open_site(context.node_config), terms_of(message)
    if not terms.masked:
        return words_reply(message, prepared.words, figures)
    identity, run = identity_of(context.node_config), str(config_of(message).get("run", ""))
    return offered_reply(message, membership.begin(site, identity, terms, prepared, run), figures)


@app.query("share")
def share(message: Message, context: Context) -> Message:
    """Share the secrets of a sum with the other hospitals, encrypted."""
    question = read_asked(ShareQuestion, message)
    return answer(message, membership.share(open_site(context.node_config), question))


@app.query("mask")
def mask(message: Message, context: Context) -> Message:
    """Hand over the masked update."""
    question = read_asked(MaskQuestion, message)
    return words_reply(message, membership.mask(open_site(context.node_config), question))


@app.query("survive")
def survive(message: Message, context: Context) -> Message:
    """Sign whose updates are in a sum."""
    question = read_asked(SurviveQuestion, message)
    return answer(message, membership.survive(open_site(context.node_config), question))


@app.query("reveal")
def reveal(message: Message, context: Context) -> Message:
    """Reveal what takes the masks off the sum, and off nothing else."""
    question = read_asked(RevealQuestion, message)
    return answer(message, membership.reveal(open_site(context.node_config), question))


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
