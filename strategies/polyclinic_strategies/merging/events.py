"""What merging tells: contributions, refusals, publications."""

from collections.abc import Mapping
from typing import Any, Literal

from polyclinic.federation.events import Event, Figure, SiteEvent, Word


class Contributed(SiteEvent):
    """A contribution is in the ledger."""

    kind: Literal["contribution"] = "contribution"
    digest: Word = ""
    num_examples: int | None = None
    staleness: int = 0
    norm: Figure = None
    number: int | None = None


class Duplicate(SiteEvent):
    """A contribution that was there already; it counts once."""

    kind: Literal["duplicate"] = "duplicate"
    digest: Word = ""


class ContributionRefused(SiteEvent):
    """A contribution was refused; `error` is the type of the refusal."""

    kind: Literal["contribution_refused"] = "contribution_refused"
    digest: Word = ""
    error: Word = ""
    reason: Word = ""


class Withdrawn(SiteEvent):
    """A contribution was withdrawn."""

    kind: Literal["withdrawn"] = "withdrawn"
    reason: Word = ""


class Scored(SiteEvent):
    """A hospital scored a published model."""

    kind: Literal["scored"] = "scored"
    number: int | None = None
    score: Figure = None


class Published(Event):
    """A model is published; `why` is arrival, parameters or withdrawal."""

    kind: Literal["published"] = "published"
    number: int
    digest: Word = ""
    sites: tuple[Word, ...] = ()
    why: Word = ""
    rule: Word = ""
    parameters: Mapping[str, Any] = {}


EVENTS = (Contributed, Duplicate, ContributionRefused, Withdrawn, Scored, Published)
