"""Events of the universal model: its stages."""

from typing import TYPE_CHECKING, Literal

from polyclinic.federation.events import Event, Word

if TYPE_CHECKING:
    from polyclinic.federation.live_state import LiveState


class StageBegins(Event):
    """A stage begins, or goes on after a restart.

    Attributes:
        number: Number of the stage, from 1.
        of: Number of all stages.
        sites: Hospitals that have contributed to the stage already.
    """

    kind: Literal["stage"] = "stage"
    number: int
    of: int
    sites: tuple[Word, ...] = ()

    def tell(self, live: "LiveState") -> str | None:
        """Begin the stage."""
        return live.begin_stage(self.number, self.of, set(self.sites))


EVENTS = (StageBegins,)
