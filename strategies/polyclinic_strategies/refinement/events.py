"""Events of refinement: descriptions, refined models, deliveries, and traffic."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from polyclinic.federation.events import Event, Figure, Figures, SiteEvent, Word
from polyclinic.reporting.formats import join_words, list_bytes, plural, show_seconds

if TYPE_CHECKING:
    from polyclinic.federation.live_state import LiveState

NEWS, GREETING = "query.collect", "query.hello"  # regular messages, which no change causes
JOIN, UPDATE, WITHDRAWAL = "join", "update", "withdrawal"
NAMED_SHARES = 4
SMALLEST_SHARE = 0.005  # smaller ones are not named
SUBJECTS, DEPARTED = "refinement.subjects", "refinement.departed"  # keys of what is remembered


class Described(SiteEvent):
    """A hospital described its images.

    Attributes:
        subjects: Number of subjects in the description.
        statistic: Name of the statistic.
        seconds: Time that the description took.
    """

    kind: Literal["described"] = "described"
    subjects: int = 0
    statistic: Word = ""
    seconds: Figure = None

    def tell(self, live: "LiveState") -> None:
        """Keep the number of images for the line about the model."""
        live.memory.setdefault(SUBJECTS, {})[self.site] = self.subjects
        live.set_doing(self.site, f"described {plural(self.subjects, 'image')}")


class Refined(SiteEvent):
    """A hospital's model is made.

    Attributes:
        why: choice (the first models), join or update.
        recipe: The recipe in words.
        coefficients: Share of each hospital's task vector; the sum is 1.
        nearest: Nearest contributor.
        distance: Distance to it, in medians of the distances between contributors.
        fallback: Why the model is the uniform mean instead; empty if it is not.
    """

    kind: Literal["refined"] = "refined"
    why: Word = ""
    recipe: Word = ""
    coefficients: Figures = Field(default_factory=dict)
    nearest: Word = ""
    distance: Figure = None
    fallback: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Return a line about the hospitals in the model."""
        live.set_doing(self.site, "its model is on its way")
        subjects = live.memory.get(SUBJECTS, {}).get(self.site, 0)
        how = {
            JOIN: f"joined with a description of {plural(subjects, 'image')}",
            UPDATE: "handed in a contribution",
        }.get(self.why)
        if how is None:
            return None
        fallback = f" ({self.fallback})" if self.fallback else ""
        return f"{self.site} {how}; its model is {tell_shares(self.coefficients)}{fallback}"


class Delivered(SiteEvent):
    """A hospital has its model; `seconds` is the time since the change that led to it."""

    kind: Literal["delivered"] = "delivered"
    why: Word = ""
    seconds: Figure = None

    def tell(self, live: "LiveState") -> str:
        """Return a line with the time that it took."""
        live.set_doing(self.site, "has its model")
        after = "" if self.seconds is None else f" after {show_seconds(self.seconds)}"
        return f"{self.site} has its model{after}"


class Recalculated(Event):
    """The coefficients of all hospitals were computed again.

    Attributes:
        why: arrival or withdrawal.
        sites: Hospitals whose coefficients changed.
        gone: Hospitals that left.
        seconds: Time that the computation took.
    """

    kind: Literal["recalculated"] = "recalculated"
    why: Word = ""
    sites: tuple[Word, ...] = ()
    gone: tuple[Word, ...] = ()
    seconds: Figure = None

    def tell(self, live: "LiveState") -> str | None:
        """Return how many models changed; after a departure, keep it for the line on traffic."""
        fast = "" if self.seconds is None else f" in {show_seconds(self.seconds)}"
        text = f"{plural(len(self.sites), 'model')} recalculated{fast}"
        for site in self.gone:
            live.set_doing(site, "left")
            live.memory.setdefault(DEPARTED, {})[site] = f"{site} left; {text}"
        return None if self.gone else text


@dataclass(frozen=True)
class Moved:
    """Bytes that were sent and received because of a change, both ways together.

    Attributes:
        own: Bytes of the hospital that joined, changed or left.
        others: Bytes of the other hospitals that sent or received any, by hospital.
        regular: Bytes of regular messages, which no change causes.
    """

    own: int
    others: Mapping[str, int]
    regular: int


class Traffic(SiteEvent):
    """Bytes that were sent and received because of a change, by site and type of message."""

    kind: Literal["traffic"] = "traffic"
    why: Word = ""
    bytes: Mapping[Word, Mapping[str, int]] = Field(default_factory=dict)

    def sort(self) -> Moved:
        """Sort the bytes by their cause.

        A hospital with new data hands in its contribution as the answer to a regular question,
        which therefore counts as its own traffic.
        """
        own = regular = 0
        others: dict[str, int] = {}
        for name, kinds in self.bytes.items():
            mine = name == self.site
            for kind, moved in kinds.items():
                news = kind == NEWS and not (mine and self.why == UPDATE)
                if news or (kind == GREETING and not mine):
                    regular += moved
                elif mine:
                    own += moved
                elif moved:
                    others[name] = others.get(name, 0) + moved
        return Moved(own, others, regular)

    def tell(self, live: "LiveState") -> str | None:
        """Return a line about the other hospitals that had to send or receive something."""
        others = self.sort().others
        departed = live.memory.get(DEPARTED, {})
        left = departed.pop(self.site, None) if self.why == WITHDRAWAL else None
        if left:
            listed = f"others sent or received: {list_bytes(others)}"
            return f"{left}, {listed if others else 'no other hospital sent or received a byte'}"
        if not others:
            return None
        return f"for {self.site} others sent or received too: {list_bytes(others)}"


EVENTS = (Described, Refined, Delivered, Recalculated, Traffic)


def tell_shares(shares: Mapping[str, float]) -> str:
    """Tell whose vectors a model is made of, the largest share first."""
    positive = [(site, share) for site, share in shares.items() if share > 0]
    ordered = sorted(positive, key=lambda pair: (-pair[1], pair[0]))
    if not ordered:
        return "the averaged one"
    if len(ordered) > 1 and math.isclose(ordered[0][1], ordered[-1][1], rel_tol=1e-6):
        names = join_words([site for site, _ in ordered])
        few = len(ordered) <= NAMED_SHARES
        return f"equal shares of {names if few else plural(len(ordered), 'hospital')}"
    shown = [(site, share) for site, share in ordered if share >= SMALLEST_SHARE]
    named = shown if len(shown) <= NAMED_SHARES else shown[: NAMED_SHARES - 1]
    words = [f"{round(100 * share)} % {site}" for site, share in named]
    others = shown[len(named) :]
    if others:
        rest = math.fsum(share for _, share in others)
        words.append(f"{round(100 * rest)} % of {len(others)} others")
    return ", ".join(words)
