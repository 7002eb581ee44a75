"""The folder of a hospital's models, journals and logs."""

import os
from pathlib import Path


def state_folder(state: Path | None, name: str) -> Path:
    """Return the state folder of a hospital: the one that is named, or the default."""
    if state is not None:
        return state
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "polyclinic" / name
