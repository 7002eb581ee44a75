"""Events of an evaluation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from polyclinic.federation.events import Event, Word

if TYPE_CHECKING:
    from polyclinic.federation.live_state import LiveState


class Scoring(Event):
    """Hospitals begin to score a model.

    Attributes:
        titles: Name to title of all models.
        number: Number of this one, from 1.
    """

    kind: Literal["scoring"] = "scoring"
    titles: Mapping[Word, Word] = {}
    number: int = 1

    def tell(self, live: "LiveState") -> str | None:
        """Show the model in place of a strategy; there are no rounds."""
        live.arms, live.rounds, live.without_rounds = dict(self.titles), 0, frozenset()
        live.arm = self.arm
        return f"model {self.number} of {len(self.titles)}: {live.arms.get(self.arm, self.arm)}"


EVENTS = (Scoring,)
