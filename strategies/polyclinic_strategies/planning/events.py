"""Events of planning: fingerprints, and the plan."""

from typing import TYPE_CHECKING, Literal

from polyclinic.federation.events import Event, SiteEvent, Word
from polyclinic.reporting.formats import plural

if TYPE_CHECKING:
    from polyclinic.federation.live_state import LiveState


DOING = "taking a fingerprint"  # as a hospital's status says it, with the number of the case


class Measuring(SiteEvent):
    """A hospital was asked for its fingerprint; `cases` is the number of cases that it reads."""

    kind: Literal["measuring"] = "measuring"
    cases: int = 0

    def tell(self, live: "LiveState") -> str:
        """Show that the hospital reads its cases, and how many there are; return a line."""
        amount = plural(self.cases, "case") if self.cases else "its cases"
        live.set_doing(self.site, DOING, amount)
        return f"{self.site} takes a fingerprint of {amount}"


class Fingerprinted(SiteEvent):
    """A hospital's fingerprint is here.

    Attributes:
        patients: Number of patients in it.
        counted: Number of patients for which it counts in the plan.
    """

    kind: Literal["fingerprinted"] = "fingerprinted"
    patients: int = 0
    counted: int = 0

    @property
    def contributors(self) -> tuple[str, ...]:
        """The hospital."""
        return (self.site,)

    def tell(self, live: "LiveState") -> str:
        """Count the hospital, and return a line."""
        live.contributed.add(self.site)
        live.set_doing(self.site, "done")
        capped = self.counted < self.patients
        counts = f", counts as {self.counted} in the plan" if capped else ""
        return (
            f"{self.site}: fingerprint of {plural(self.patients, 'patient')}{counts}; "
            f"{len(live.contributed)} of {len(live.rows)} hospitals are done"
        )


class Planned(Event):
    """The plan is written; `plan` is its file, `digest` its SHA-256."""

    kind: Literal["planned"] = "planned"
    plan: Word = ""
    digest: Word = ""

    def tell(self, live: "LiveState") -> str:  # noqa: ARG002
        """Return a line."""
        return f"plan {self.digest[:12]} is written"


EVENTS: tuple[type[Event], ...] = (Measuring, Fingerprinted, Planned)
