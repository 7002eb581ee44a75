"""What the universal model tells: its stages."""

from typing import TYPE_CHECKING, Literal

from polyclinic.federation.events import Event, Word

if TYPE_CHECKING:
    from polyclinic.federation.live_state import LiveState


class StageBegins(Event):
    """A stage begins, or goes on after a restart; `sites` have contributed to it already."""

    kind: Literal["stage"] = "stage"
    number: int
    of: int
    sites: tuple[Word, ...] = ()

    def tell(self, live: "LiveState") -> str | None:
        """Begin the stage."""
        return live.begin_stage(self.number, self.of, set(self.sites))


EVENTS = (StageBegins,)
