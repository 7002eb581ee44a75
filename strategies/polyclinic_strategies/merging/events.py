"""Events of merging: contributions, refusals, publications."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from polyclinic.federation.events import Event, Figure, SiteEvent, Word

if TYPE_CHECKING:
    from polyclinic.federation.live_state import LiveState


REASONS = {"parameters": " with other parameters", "withdrawal": " after a withdrawal"}


class Contributed(SiteEvent):
    """A contribution is in the ledger.

    Attributes:
        digest: SHA-256 (hex) of the contribution.
        num_examples: Number of training cases.
        staleness: Number of bases that are newer than the one it started from.
        norm: Euclidean norm of the task vector.
        number: Number of its line in the journal.
        start: Number of the published model that it started from; 0 for a base.
    """

    kind: Literal["contribution"] = "contribution"
    digest: Word = ""
    num_examples: int | None = None
    staleness: int = 0
    norm: Figure = None
    number: int | None = None
    start: int = 0

    @property
    def contributors(self) -> tuple[str, ...]:
        """The hospital."""
        return (self.site,)

    def tell(self, live: "LiveState") -> str | None:
        """Count the hospital, and return a line about its contribution."""
        live.contributed.add(self.site)
        live.set_doing(self.site, "contributed")
        late = f", made {self.staleness} bases ago" if self.staleness else ""
        late += f", from model {self.start}" if self.start else ""
        cases = "?" if self.num_examples is None else self.num_examples
        return f"{self.site} contributed ({cases} training cases{late}): {live.tally()}"


class Summed(SiteEvent):
    """Contributions of several hospitals are in the ledger, as their secure sum.

    Attributes:
        site: Name of the batch.
        members: Hospitals whose contributions are in the sum.
        digest: SHA-256 (hex) of the batch.
        distance: Largest distance of its mean to the exact one.
    """

    kind: Literal["summed"] = "summed"
    members: tuple[Word, ...] = ()
    digest: Word = ""
    distance: Figure = None

    @property
    def contributors(self) -> tuple[str, ...]:
        """The hospitals in it."""
        return self.members

    def tell(self, live: "LiveState") -> str | None:
        """Count the hospitals, and return a line that names them."""
        for site in self.members:
            live.contributed.add(site)
            live.set_doing(site, "contributed")
        named = ", ".join(self.members)
        return f"{self.site} is the secure sum of {named}: {live.tally()}"


class Reused(Event):
    """The ledger holds contributions from before: of another strategy, run, or attempt."""

    kind: Literal["reused"] = "reused"
    sites: tuple[Word, ...] = ()

    @property
    def contributors(self) -> tuple[str, ...]:
        """The hospitals."""
        return self.sites

    def tell(self, live: "LiveState") -> str | None:
        """Count the hospitals, and return a line that names them."""
        live.contributed |= set(self.sites)
        named = ", ".join(self.sites)
        return f"contributions that the ledger holds are used again ({named}): {live.tally()}"


class Duplicate(SiteEvent):
    """A contribution was handed in again; it counts once."""

    kind: Literal["duplicate"] = "duplicate"
    digest: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Return a line: nothing changed."""
        live.set_doing(self.site, "contributed")
        return f"{self.site} handed in the same contribution again; it counts once"


class ContributionRejected(SiteEvent):
    """A contribution was refused; `error` is the type of the refusal."""

    kind: Literal["contribution_refused"] = "contribution_refused"
    digest: Word = ""
    error: Word = ""
    reason: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Return the reason."""
        live.set_doing(self.site, "refused")
        return f"{self.site}'s contribution was refused: {self.reason}"


class SetAside(SiteEvent):
    """A contribution that was accepted once cannot be merged, and does not count any more."""

    kind: Literal["set_aside"] = "set_aside"
    digest: Word = ""
    reason: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Return the reason."""
        live.set_doing(self.site, "set aside")
        return f"{self.site}'s contribution is set aside: {self.reason}"


class Withdrawn(SiteEvent):
    """A contribution was withdrawn."""

    kind: Literal["withdrawn"] = "withdrawn"
    reason: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Stop counting the hospital, and return the reason."""
        live.contributed.discard(self.site)
        live.set_doing(self.site, "withdrawn")
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.site}'s contribution was withdrawn{reason}"


class Scored(SiteEvent):
    """A hospital scored a published model."""

    kind: Literal["scored"] = "scored"
    number: int | None = None
    score: Figure = None

    def tell(self, live: "LiveState") -> str | None:
        """Show the score."""
        number = "?" if self.number is None else self.number
        row = live.set_doing(self.site, f"scored model {number}")
        if self.score is None:
            return f"{self.site} scored model {number}"
        row.score = self.score
        return f"{self.site} scored model {number}: {live.score_name} {self.score:.3f}"


class Published(Event):
    """A model is published.

    Attributes:
        number: Number of the publication.
        digest: Digest of the model.
        sites: Hospitals whose contributions are in the model.
        why: arrival, parameters (another candidate is better) or withdrawal.
        rule: Name of the rule.
        parameters: Parameters of the rule.
    """

    kind: Literal["published"] = "published"
    number: int
    digest: Word = ""
    sites: tuple[Word, ...] = ()
    why: Word = ""
    rule: Word = ""
    parameters: Mapping[str, Any] = {}

    def tell(self, live: "LiveState") -> str | None:
        """Return a line about the model, and why it was published."""
        live.contributed |= set(self.sites)
        why = REASONS.get(self.why, "")
        count = len(self.sites)
        of = f", made of {count} contribution{'' if count == 1 else 's'}" if count else ""
        return f"model {self.number} is published{why}{of}"


EVENTS = (
    Contributed, Summed, Reused, Duplicate, ContributionRejected, SetAside, Withdrawn, Scored,
    Published,
)  # fmt: skip
