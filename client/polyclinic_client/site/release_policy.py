"""What a hospital demands before a mean over its subjects leaves: STATE/release.json.

It counts whatever the coordinator asks for; the stricter of the two is done.
"""

from pathlib import Path

from polyclinic.config.release import Release
from polyclinic_client.site.demands import keep_demands, read_demands

FILE = "release.json"


def keep_release_policy(state: Path, min_subjects: int | None, noise: float | None) -> None:
    """Remember what was said on the command line; what was not said stays as it is."""
    keep_demands(state / FILE, Release, {"min_subjects": min_subjects, "noise_multiplier": noise})


def read_release_policy(state: Path) -> Release:
    """Read what the hospital demands; `Release`'s own defaults where it never said anything.

    Raises:
        ConfigError: The file is damaged: nothing leaves then.
    """
    return read_demands(state / FILE, Release)
