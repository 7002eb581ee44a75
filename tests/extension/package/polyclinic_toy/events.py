"""What consensus tells."""

from typing import TYPE_CHECKING, Literal

from polyclinic.federation.events import Event, Figure

if TYPE_CHECKING:
    from polyclinic.federation.live_state import LiveState


class Agreed(Event):
    """A round's median is taken; `spread` is the hospitals' mean standard deviation per weight."""

    kind: Literal["agreed"] = "agreed"
    round: int
    spread: Figure = None

    def tell(self, live: "LiveState") -> str:
        """Tell how far apart the hospitals were."""
        return f"{live.arm}: round {self.round}, spread {self.spread:.6f}"


EVENTS = (Agreed,)
