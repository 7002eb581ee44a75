"""Messages about contributions between coordinator and hospital, packed as Flower's messages.

Flower's ClientApp can only answer, and training takes a hospital hours or days. The coordinator
therefore asks again and again (`query.collect`), and the hospital answers at once with the content
of its outbox. Between two such questions both sides may die, and nothing is lost.
"""

from typing import Annotated, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from polyclinic.errors import ConfigError
from polyclinic.federation.answers import array_of, record_of
from polyclinic.federation.assignment import Assignment, Handover, Verdict
from polyclinic.federation.envelope import array_values, make_message
from polyclinic.federation.envelope.content import ARRAYS, CONFIG, INLINE_BYTES, weights_to_record
from polyclinic.federation.records import (
    Order,
    config_of,
    order_from_message,
    order_to_config,
    read_values,
)
from polyclinic.system.durable import DIGEST
from polyclinic.system.text import clean

__all__ = [
    "LONG_S",
    "SHORT_S",
    "Assignment",
    "Handover",
    "Verdict",
    "ask_for_contribution",
    "ask_for_score",
    "confirm",
    "hand_over",
    "read_assignment",
    "read_base",
    "read_confirmation",
    "read_handover",
    "send_base",
]
FILE = "file"
VERDICTS = 1000  # in one question
DOING_CHARACTERS = 200
# Seconds for which a message waits for its hospital: a question for a contribution is repeated
# anyhow, a message with a model is worth a longer wait.
SHORT_S, LONG_S = 600.0, 86400.0


def ask_for_contribution(assignment: Assignment, verdicts: list[Verdict], node: int) -> Message:
    """Make a `query.collect`: an assignment, and verdicts on what was handed over before."""
    config = order_to_config(assignment.order)
    config["base"], config["task"] = assignment.base, assignment.task
    config["ledger"] = assignment.ledger
    config["statistics"] = list(assignment.statistics)
    config["min-subjects"] = assignment.min_subjects
    config["noise-multiplier"] = assignment.noise_multiplier
    if assignment.summed:
        config["summed"] = True
    if assignment.rank:
        config["rank"] = assignment.rank
    config["variances"] = assignment.variances
    config["verdict.digests"] = [verdict.digest for verdict in verdicts]
    config["verdict.accepted"] = [verdict.accepted for verdict in verdicts]
    config["verdict.reasons"] = [verdict.reason for verdict in verdicts]
    return make_message(RecordDict({CONFIG: config}), node, "query.collect", ttl=SHORT_S)


def read_assignment(message: Message) -> tuple[Assignment, list[Verdict]]:
    """Read a `query.collect`.

    Raises:
        ConfigError: A field is missing or has the wrong type.
    """
    flat = config_of(message)
    columns = [flat.get(f"verdict.{name}") for name in ("digests", "accepted", "reasons")]
    lists = [column for column in columns if isinstance(column, list)]
    if len(lists) < 3 or len({len(column) for column in lists}) > 1 or len(lists[0]) > VERDICTS:
        raise ConfigError(
            f"The message has no verdicts, or more than {VERDICTS}: the coordinator runs another "
            "version of polyclinic."
        )
    verdicts = [
        read_values(Verdict, {"digest": digest, "accepted": accepted, "reason": reason}, "verdict.")
        for digest, accepted, reason in zip(*lists, strict=True)
    ]
    named: dict[str, Any] = {
        key: flat[key] for key in ("base", "task", "ledger", "statistics") if key in flat
    }
    released = {
        name: flat[key]
        for key, name in (
            ("min-subjects", "min_subjects"),
            ("noise-multiplier", "noise_multiplier"),
            ("summed", "summed"),
            ("variances", "variances"),
            ("rank", "rank"),
        )
        if key in flat
    }
    order = order_from_message(message)
    return read_values(Assignment, {"order": order, **named, **released}, "assignment."), verdicts


def hand_over(message: Message, handover: Handover) -> Message:
    """Make the answer to a `query.collect`.

    A contribution of at most `INLINE_BYTES` travels among the scalars, which halves the calls.
    """
    flat: dict[str, Any] = {
        "needs-base": handover.needs_base,
        "doing": handover.doing,
        "digest": handover.digest,
    }
    if 0 < len(handover.content) <= INLINE_BYTES:
        flat[FILE] = handover.content
    content = RecordDict({CONFIG: ConfigRecord(flat)})
    if len(handover.content) > INLINE_BYTES:
        content[ARRAYS] = ArrayRecord(
            {FILE: Array(np.frombuffer(handover.content, dtype=np.uint8))}
        )
    return Message(content, reply_to=message)


class _Handover(BaseModel):
    """The bounds of an answer to a `query.collect`."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    needs_base: bool
    doing: str
    digest: Annotated[str, Field(pattern=f"^({DIGEST.pattern})?$")]
    file: bytes = b""


def read_handover(message: Message) -> Handover:
    """Read the answer to a `query.collect`.

    Raises:
        AnswerRefused: It is another answer.
        pydantic.ValidationError: A field is missing or of another kind.
    """
    flat: dict[str, Any] = dict(record_of(message, CONFIG, ConfigRecord))
    found = _Handover(**{key.replace("-", "_"): value for key, value in flat.items()})
    content = found.file
    if ARRAYS in message.content:
        record = record_of(message, ARRAYS, ArrayRecord)
        content = array_values(array_of(record, FILE, "uint8", None)).tobytes()
    doing = clean(found.doing)[:DOING_CHARACTERS]
    return Handover(found.needs_base, doing, found.digest, content)


def read_confirmation(message: Message) -> None:
    """Read an answer that only confirms: whatever it holds."""


def send_base(assignment: Assignment, weights: Tensor, node: int) -> Message:
    """Make a `query.base`: the model that the hospital starts from."""
    config = order_to_config(assignment.order)
    config["base"] = assignment.base
    content = RecordDict({ARRAYS: weights_to_record(weights), CONFIG: config})
    return make_message(content, node, "query.base", ttl=LONG_S)


def read_base(message: Message) -> tuple[Order, str]:
    """Return order and digest of a `query.base`.

    Its weights are read by `content.weights_from_message`.

    Raises:
        ConfigError: A field is missing or has the wrong type.
    """
    order, base = order_from_message(message), config_of(message).get("base")
    try:
        return order, _digest(base)
    except ValueError as error:
        raise ConfigError(
            f"The message names no base ({error}): the coordinator runs another version of "
            "polyclinic."
        ) from error


def confirm(message: Message) -> Message:
    """Make an answer that only confirms a message."""
    return Message(RecordDict({CONFIG: ConfigRecord({"understood": True})}), reply_to=message)


def ask_for_score(order: Order, weights: Tensor, node: int) -> Message:
    """Make an `evaluate.score`: a model to score on the hospital's validation cases."""
    content = RecordDict({ARRAYS: weights_to_record(weights), CONFIG: order_to_config(order)})
    return make_message(content, node, "evaluate.score", ttl=LONG_S)


def _digest(value: object) -> str:
    """Check that a value is a SHA-256 in hexadecimal, and return it.

    Raises:
        ValueError: It is not.
    """
    text = str(value)
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"a digest instead of {text[:80]!r}")
    return text
