"""What a hospital demands before a mean over its subjects leaves: STATE/release.json.

It counts whatever the coordinator asks for; the stricter of the two is done.
"""

import json
from pathlib import Path

from polyclinic.config.release import Release
from polyclinic.errors import ConfigError
from polyclinic.system.durable import write_durably

FILE = "release.json"
LEAST = Release(min_subjects=1)


def keep_release_policy(state: Path, min_subjects: int | None, noise: float | None) -> None:
    """Remember what was said on the command line; what was not said stays as it is."""
    if min_subjects is None and noise is None:
        return
    try:
        before = read_release_policy(state)
    except ConfigError:
        before = LEAST
    demanded = {
        "min_subjects": before.min_subjects if min_subjects is None else min_subjects,
        "noise_multiplier": before.noise_multiplier if noise is None else noise,
    }
    write_durably(state / FILE, json.dumps(demanded).encode())


def read_release_policy(state: Path) -> Release:
    """Read what the hospital demands; nothing where it never said anything.

    Raises:
        ConfigError: The file is damaged: nothing leaves then.
    """
    path = state / FILE
    try:
        return Release(**json.loads(path.read_text()))
    except FileNotFoundError:
        return LEAST
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            "The hospital's release.json is damaged. Write it again: `polyclinic-client join "
            "--min-subjects N`."
        ) from error
