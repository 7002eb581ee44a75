"""What a page shows is looked at once a second, in a thread of its own."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from polyclinic.system.machine import return_memory

LOOK_S = 1.0
RETURN_LOOKS = 60  # looks, after each of which unused memory goes back to the system


class Looker:
    """Looks inside a `with` block; the subclass says at what.

    Attributes:
        lock: Of all that is shown.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._live, name="page-watch", daemon=True)

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._leaving.set()
        self._thread.join(LOOK_S + 1.0)

    def look(self) -> object:
        """Look once."""
        raise NotImplementedError

    def _live(self) -> None:
        looks = 0
        while not self._leaving.wait(LOOK_S):
            with suppress(OSError):  # a folder that is gone at this moment
                self.look()
            looks += 1
            if looks % RETURN_LOOKS == 0:
                return_memory()


def mark_of(path: Path) -> tuple[int, int]:
    """Return what changes with a file: its time and size; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
