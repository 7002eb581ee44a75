"""Names of results: those of the images, without their endings."""

from collections.abc import Sequence
from pathlib import Path

from polyclinic.errors import ConfigError

ENDINGS = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg")


def name_results(images: Sequence[Path]) -> list[str]:
    """Return the files' names without their endings.

    Raises:
        ConfigError: Two of them are the same.
    """
    stems = [_stem(image) for image in images]
    if len(set(stems)) < len(stems):
        raise ConfigError(
            "Two images have the same name, their results would overwrite each other: write them "
            "into two --out folders."
        )
    return stems


def _stem(image: Path) -> str:
    for ending in ENDINGS:
        if image.name.lower().endswith(ending):
            return image.name[: -len(ending)]
    return image.stem
