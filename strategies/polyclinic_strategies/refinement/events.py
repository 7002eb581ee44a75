"""What refinement tells: descriptions, refined models, deliveries, and who else noticed."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from polyclinic.federation.events import Event, Figure, Figures, SiteEvent, Word


class Described(SiteEvent):
    """A hospital described its images."""

    kind: Literal["described"] = "described"
    subjects: int = 0
    statistic: Word = ""
    seconds: Figure = None


class Refined(SiteEvent):
    """A hospital's model is made; `why` is choice, join or update."""

    kind: Literal["refined"] = "refined"
    why: Word = ""
    recipe: Word = ""
    coefficients: Figures = Field(default_factory=dict)
    nearest: Word = ""
    distance: Figure = None
    fallback: Word = ""


class Delivered(SiteEvent):
    """A hospital has its model."""

    kind: Literal["delivered"] = "delivered"
    why: Word = ""
    seconds: Figure = None


class Recalculated(Event):
    """Everybody's coefficients were computed anew; `gone` are the hospitals that left."""

    kind: Literal["recalculated"] = "recalculated"
    why: Word = ""
    sites: tuple[Word, ...] = ()
    gone: tuple[Word, ...] = ()
    seconds: Figure = None


class Traffic(SiteEvent):
    """Bytes that an occasion moved, by site and type of message."""

    kind: Literal["traffic"] = "traffic"
    why: Word = ""
    bytes: Mapping[Word, Mapping[str, int]] = {}


EVENTS = (Described, Refined, Delivered, Recalculated, Traffic)
