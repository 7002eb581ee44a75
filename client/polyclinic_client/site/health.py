"""Whether a hospital's client is admitted now: `python -m polyclinic_client.site.health FOLDER...`.

For a container's health check, which must be small: neither torch nor Flower is imported. Each
FOLDER is a state folder, or holds state folders. Exit status 0 if a client is admitted there.
"""

import fcntl
import sys
from collections.abc import Iterable
from pathlib import Path

from polyclinic_client.site.status import CONNECTED, CONNECTION, StatusFile


def is_admitted(state: Path) -> bool:
    """Return whether a client that runs with this state folder is admitted."""
    # only then the lock: a client that starts must find it free
    return StatusFile(state / CONNECTION).read().doing == CONNECTED and _is_locked(state / "lock")


def _is_locked(path: Path) -> bool:
    """Return whether a client holds the lock; a file that a killed one left tells nothing."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def main(folders: Iterable[Path]) -> int:
    """Say how it is, and return the exit status."""
    states = [state for folder in folders for state in (folder, *sorted(folder.glob("*/")))]
    admitted = any(is_admitted(state) for state in states)
    sys.stdout.write("admitted\n" if admitted else "not admitted\n")
    return 0 if admitted else 1


if __name__ == "__main__":
    sys.exit(main(map(Path, sys.argv[1:])))
