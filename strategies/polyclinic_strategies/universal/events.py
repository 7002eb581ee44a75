"""What the universal model tells: its stages."""

from typing import Literal

from polyclinic.federation.events import Event, Word


class StageBegins(Event):
    """A stage begins, or goes on after a restart; `sites` have contributed to it already."""

    kind: Literal["stage"] = "stage"
    number: int
    of: int
    sites: tuple[Word, ...] = ()


EVENTS = (StageBegins,)
