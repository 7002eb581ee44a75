"""What refinement tells: descriptions, refined models, deliveries, and who else noticed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from polyclinic.federation.events import Event, Figure, Figures, SiteEvent, Word
from polyclinic.reporting.formats import join_words, list_bytes, plural, show_seconds

if TYPE_CHECKING:
    from polyclinic.federation.live_state import LiveState

NEWS, GREETING = "query.collect", "query.hello"  # messages that go on whatever happens
JOIN, UPDATE, WITHDRAWAL = "join", "update", "withdrawal"
NAMED_SHARES = 4
SMALLEST_SHARE = 0.005  # smaller ones are not named
SUBJECTS, DEPARTED = "refinement.subjects", "refinement.departed"  # keys of what is remembered


class Described(SiteEvent):
    """A hospital described its images."""

    kind: Literal["described"] = "described"
    subjects: int = 0
    statistic: Word = ""
    seconds: Figure = None

    def tell(self, live: "LiveState") -> None:
        """Remember the number of images, which is told with the model."""
        live.memory.setdefault(SUBJECTS, {})[self.site] = self.subjects
        live.set_doing(self.site, f"described {plural(self.subjects, 'image')}")


class Refined(SiteEvent):
    """A hospital's model is made; `why` is choice, join or update."""

    kind: Literal["refined"] = "refined"
    why: Word = ""
    recipe: Word = ""
    coefficients: Figures = Field(default_factory=dict)
    nearest: Word = ""
    distance: Figure = None
    fallback: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Tell what the model is made of."""
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
    """A hospital has its model."""

    kind: Literal["delivered"] = "delivered"
    why: Word = ""
    seconds: Figure = None

    def tell(self, live: "LiveState") -> str:
        """Tell how long it took."""
        live.set_doing(self.site, "has its model")
        after = "" if self.seconds is None else f" after {show_seconds(self.seconds)}"
        return f"{self.site} has its model{after}"


class Recalculated(Event):
    """Everybody's coefficients were computed anew; `gone` are the hospitals that left."""

    kind: Literal["recalculated"] = "recalculated"
    why: Word = ""
    sites: tuple[Word, ...] = ()
    gone: tuple[Word, ...] = ()
    seconds: Figure = None

    def tell(self, live: "LiveState") -> str | None:
        """Tell how many models changed; after a departure that is told with its traffic."""
        fast = "" if self.seconds is None else f" in {show_seconds(self.seconds)}"
        text = f"{plural(len(self.sites), 'model')} recalculated{fast}"
        for site in self.gone:
            live.set_doing(site, "left")
            live.memory.setdefault(DEPARTED, {})[site] = f"{site} left; {text}"
        return None if self.gone else text


@dataclass(frozen=True)
class Moved:
    """Bytes that an occasion moved, both ways together.

    Attributes:
        own: Bytes of the hospital that the occasion is about.
        others: Bytes of all others that moved any, by hospital.
        regular: Bytes of what goes on whatever happens.
    """

    own: int
    others: Mapping[str, int]
    regular: int


class Traffic(SiteEvent):
    """Bytes that an occasion moved, by site and type of message."""

    kind: Literal["traffic"] = "traffic"
    why: Word = ""
    bytes: Mapping[Word, Mapping[str, int]] = Field(default_factory=dict)

    def sort(self) -> Moved:
        """Sort the bytes out.

        A hospital that changed handed its contribution over when it was asked for news: there this is
        its own traffic.
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
        """Tell who else had to send or receive."""
        others = self.sort().others
        departed = live.memory.get(DEPARTED, {})
        left = departed.pop(self.site, None) if self.why == WITHDRAWAL else None
        if left:
            moved = (
                f"others moved too: {list_bytes(others)}" if others else "nobody else moved a byte"
            )
            return f"{left}, {moved}"
        return (
            f"for {self.site} others sent or received too: {list_bytes(others)}" if others else None
        )


EVENTS = (Described, Refined, Delivered, Recalculated, Traffic)


def tell_shares(shares: Mapping[str, float]) -> str:
    """Tell whose vectors a model is made of, the largest share first."""
    positive = [(site, share) for site, share in shares.items() if share > 0]
    ordered = sorted(positive, key=lambda pair: (-pair[1], pair[0]))
    if not ordered:
        return "nothing"
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
