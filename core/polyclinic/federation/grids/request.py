"""One question of a phase, and what is common to all kinds of answers."""

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Array, Message

from polyclinic.federation.answers import Figures, read_figures
from polyclinic.federation.attendance import Member
from polyclinic.federation.envelope.content import METRICS

Read = Callable[[str, Message], object]  # of a site and its answer; for a method's own questions


@dataclass
class Request:
    """The question to one hospital.

    Attributes:
        message: The message.
        member: The hospital, as it was when the message was sent.
        weights: The weights that the message carries, if any.
        identifier: Flower's identifier of the message; empty while it is not sent.
        tries: How often it was sent.
    """

    message: Message
    member: Member | None
    weights: Array | None = None
    identifier: str = ""
    tries: int = 0


def figures_of(answer: object) -> Figures:
    """Return the figures in an answer, if it has any."""
    found = getattr(answer, "figures", answer)
    return found if isinstance(found, Figures) else Figures.model_construct()


def read_any(message: Message) -> Figures:
    """Read the figures of an answer to a method's own question, if it has any."""
    if METRICS in message.content:
        return read_figures(message)
    return Figures.model_construct()
