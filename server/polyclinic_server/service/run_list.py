"""Which runs a service has in hand: a file for each, so that the next service takes them up.

RUNS/.fleet/runs/NAME.json   whether the run shall go on: until it ends, or somebody stops it
                 NAME.lock   held by the run's process
                 NAME.log    what that process writes
"""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from polyclinic.errors import ConfigError
from polyclinic.system.durable import make_private_folder, write_durably

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # of a run: that of a folder, and no path
RESERVED = "latest"
LARGEST_BYTES = 64 * 1024


class Known(BaseModel):
    """What is kept of a run.

    Attributes:
        folder: Where relative paths in its settings begin.
        goes_on: Whether it is in hand.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    folder: str = ""
    goes_on: bool = True


class RunList:
    """The runs of a service, on the disk.

    Args:
        fleet: The folder `.fleet`.
    """

    def __init__(self, fleet: Path) -> None:
        self._runs = fleet.parent
        self._folder = fleet / "runs"
        make_private_folder(self._folder)

    def keep(self, name: str, folder: Path, *, goes_on: bool) -> None:
        """Note whether a run shall go on, and where relative paths in its settings begin."""
        known = Known(folder=str(folder), goes_on=goes_on)
        write_durably(self._file(name), known.model_dump_json())

    def forget(self, name: str) -> None:
        """Remove all that is known of a run."""
        for path in (self._file(name), self.lock(name), self.log(name)):
            path.unlink(missing_ok=True)

    def in_hand(self) -> list[str]:
        """Return the runs that shall go on, by name; those of damaged files are among them."""
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        return [name for name in names if NAME.fullmatch(name) and self._read(name).goes_on]

    def folder_of(self, name: str, otherwise: Path | None = None) -> Path:
        """Return where relative paths in a run's settings begin; the folder of the runs at last.

        Args:
            name: The run.
            otherwise: The folder for a run that no service had in hand.
        """
        kept = self._read(name).folder
        found = Path(kept) if kept else otherwise
        return found if found is not None and found.is_dir() else self._runs

    def lock(self, name: str) -> Path:
        """Return the file that a run's process locks."""
        return self._folder / f"{name}.lock"

    def log(self, name: str) -> Path:
        """Return the file that takes what a run's process writes."""
        return self._folder / f"{name}.log"

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, name: str) -> Known:
        try:
            with self._file(name).open("rb") as file:
                return Known.model_validate_json(file.read(LARGEST_BYTES))
        except (OSError, ValueError):
            return Known()


def check_name(name: str) -> str:
    """Return the name of a run, if it can be one.

    Raises:
        ConfigError: It is a path, or has other characters than a name.
    """
    if not NAME.fullmatch(name) or name == RESERVED:
        raise ConfigError(
            f"--name {name[:100]!r}: a run's name has letters, digits, '.', '_' and '-', at most "
            f"100 of them, begins with no '.' or '-', and is not '{RESERVED}'."
        )
    return name
