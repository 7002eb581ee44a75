"""The events of a run whose coordinator is another process."""

from collections.abc import Iterator
from pathlib import Path

from polyclinic.federation.events import Event, EventLog

PIECE = 4 * 2**20  # bytes that are read at once; a longer line is passed over


class EventTail:
    """Events that another process appends to a file, each time it is asked.

    Args:
        path: The run's events.jsonl; what it holds already is passed over.
        begin: Number of its bytes to pass over instead.
        log: Reader of events; None makes one.
    """

    def __init__(self, path: Path, begin: int | None = None, log: EventLog | None = None) -> None:
        self._path = path
        self._log = log or EventLog()
        self._position = self._size() if begin is None else begin

    @property
    def is_another_file(self) -> bool:
        """Whether the file is shorter than what was read of it."""
        return self._size() < self._position

    def read(self) -> list[Event]:
        """Return what was appended since the last call, whole lines only."""
        return list(self.events())

    def events(self) -> Iterator[Event]:
        """Yield what was appended since the last call, a piece of the file in memory at a time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            while piece := file.read(PIECE):
                whole, end, _ = piece.rpartition(b"\n")
                if not end and len(piece) < PIECE:
                    return  # the last line is being written
                self._position += len(whole) + len(end) if end else len(piece)
                file.seek(self._position)
                for line in whole.split(b"\n"):
                    event = self._log.parse(line.decode("utf-8", "replace")) if line else None
                    if event is not None:
                        yield event

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0
