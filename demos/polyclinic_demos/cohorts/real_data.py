"""Folder of real images, named by the environment variable `POLYCLINIC_DATA`."""

import os
from pathlib import Path

from polyclinic.errors import ConfigError

NEEDED = (
    "Real images need POLYCLINIC_DATA: set it to the folder that holds them, or choose real=False."
)


def find_data(unset: str = NEEDED) -> Path:
    """Return the folder.

    Args:
        unset: What is said where the variable is not set.

    Raises:
        ConfigError: It is not.
    """
    root = os.environ.get("POLYCLINIC_DATA")
    if not root:
        raise ConfigError(unset)
    return Path(root).resolve()
