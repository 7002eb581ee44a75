"""Augmentation that swaps left and right, and labels that it would make wrong."""

import re
from collections.abc import Sequence

from polyclinic.config.schemas import DataConfig, Part

# transforms of MONAI's that flip; without `spatial_axis` they flip any axis
FLIPS = ("RandFlipd", "RandAxisFlipd", "Flipd")
WORDS = {  # of a side, in the languages of label lists that we know
    *("left", "right", "lh", "rh", "sinister", "dexter", "sinistra", "dextra"),
    *("links", "linke", "linker", "linkes", "rechts", "rechte", "rechter", "rechtes"),
    *("gauche", "droit", "droite", "izquierdo", "izquierda", "derecho", "derecha"),
}
LETTERS = ("l", "r")  # a side only where another label differs in this letter alone


def labels_of_sides(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels that name a side of the body, such as "left kidney" or "Kidney_L"."""
    split = {label: _words(label) for label in labels}
    known = set(split.values())
    return tuple(
        label
        for label, words in split.items()
        if WORDS & set(words) or any(other in known for other in _other_side(words))
    )


def augmentation_of(data: DataConfig) -> tuple[Part, ...]:
    """Return the transforms of `data.augment`, without those that make labels of sides wrong.

    `data.mirroring` decides: on keeps all of them, off keeps none that swaps left and right, auto
    keeps those only where no label names a side.
    """
    if data.mirroring == "on" or (data.mirroring == "auto" and not labels_of_sides(data.labels)):
        return data.augment
    return tuple(part for part in data.augment if not _mirrors(part, data.orientation))


def describe_mirroring(data: DataConfig) -> str:
    """Say which transforms are left out because labels name sides; empty if none is."""
    if data.mirroring != "auto" or len(augmentation_of(data)) == len(data.augment):
        return ""
    named = labels_of_sides(data.labels)
    more = ", ..." if len(named) > 2 else ""
    return (
        f"Labels name a side ({', '.join(named[:2])}{more}): images are not flipped left to right "
        "while training. data.mirroring=on flips them all the same."
    )


def _words(label: str) -> tuple[str, ...]:
    """Split a label at everything that is no letter, and before capital letters."""
    return tuple(
        word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+", label)
    )


def _other_side(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the words with one letter of a side replaced by the other side's."""
    return [
        (*words[:place], LETTERS[1 - LETTERS.index(word)], *words[place + 1 :])
        for place, word in enumerate(words)
        if word in LETTERS
    ]


def _mirrors(part: Part, orientation: str) -> bool:
    """Tell whether a transform flips the axis from left to right."""
    if str(part.get("_target_")).rpartition(".")[2] not in FLIPS:
        return False
    axes = part.get("spatial_axis")
    if axes is None:
        return True
    sideways = [place for place, letter in enumerate(orientation) if letter in "RL"]
    across = sideways[0] if sideways else len(orientation)  # two letters: the third is implied
    return across in (axes if isinstance(axes, list | tuple) else (axes,))
