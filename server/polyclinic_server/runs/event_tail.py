"""The events of a run whose coordinator is another process."""

from pathlib import Path

from polyclinic.federation.events import Event, EventLog


class EventTail:
    """Events that another process appends to a file, each time it is asked.

    Args:
        path: The run's events.jsonl; what it holds already is passed over.
        begin: Number of its bytes to pass over instead.
    """

    def __init__(self, path: Path, begin: int | None = None) -> None:
        self._path = path
        self._log = EventLog()
        present = path.stat().st_size if path.exists() else 0
        self._position = present if begin is None else begin

    def read(self) -> list[Event]:
        """Return what was appended since the last call, whole lines only."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        lines = whole.decode("utf-8", "replace").splitlines()
        return [event for line in lines if (event := self._log.parse(line)) is not None]
