"""The lock of a folder of runs: only one coordinator works there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polyclinic.errors import RunError
from polyclinic.system.processes import lock_file

FLEET = ".fleet"  # folder beside the runs: what travels, and the lock


@contextmanager
def only_coordinator(fleet: Path) -> Iterator[None]:
    """Hold the lock in a folder `.fleet`.

    Raises:
        RunError: Another coordinator holds it.
    """
    fleet.mkdir(parents=True, exist_ok=True)
    with lock_file(fleet / "lock") as mine:
        if not mine:
            raise RunError(
                f"Another coordinator works in {fleet.parent}. End it, or choose another folder "
                "with deployment.runs=FOLDER."
            )
        yield
