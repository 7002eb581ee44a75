"""The name of the kind of images that a hospital has."""

from collections.abc import Sequence


def name_modality(channels: Sequence[str]) -> str:
    """Name what kind of images a hospital has, by the names of their channels."""
    if [name.lower() for name in channels] == ["red", "green", "blue"]:
        return "colour"
    return ", ".join(channels)[:200]  # as much as a coordinator reads
