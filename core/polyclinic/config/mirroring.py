"""Augmentation that swaps left and right, and labels that it would make wrong."""

import re
from collections.abc import Sequence

from polyclinic.config.schemas import DataConfig, Part

# transforms of MONAI's that flip; without `spatial_axis` they flip any axis
FLIPS = ("RandFlipd", "RandAxisFlipd", "Flipd")
# transforms of ours that mirror, among much else, the axes that they are told in `mirrored_axes`
MIRRORING = ("NnUNetAugmentation",)
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


def mirrored_axes(data: DataConfig) -> tuple[int, ...]:
    """Return the axes along which images may be mirrored; left to right may be left out."""
    axes = range(data.spatial_dims)
    if _keeps_sides(data):
        return tuple(axis for axis in axes if axis != _sideways(data.orientation))
    return tuple(axes)


def augmentation_of(data: DataConfig) -> tuple[Part, ...]:
    """Return the transforms of `data.augment`, without what makes labels of sides wrong.

    `data.mirroring` decides: on keeps all of them, off keeps none that swaps left and right, auto
    keeps those only where no label names a side. A transform that does more than mirroring is kept
    and told the axes that remain.
    """
    if not _keeps_sides(data):
        return data.augment
    across, allowed = _sideways(data.orientation), mirrored_axes(data)
    return tuple(
        {**part, "mirrored_axes": [axis for axis in _axes_of(part, allowed) if axis in allowed]}
        if _name_of(part) in MIRRORING
        else part
        for part in data.augment
        if not _flips(part, across)
    )


def describe_mirroring(data: DataConfig) -> str:
    """Say that images are not mirrored because labels name sides; empty if they are."""
    if data.mirroring != "auto" or augmentation_of(data) == data.augment:
        return ""
    named = labels_of_sides(data.labels)
    more = ", ..." if len(named) > 2 else ""
    return (
        f"Labels name a side ({', '.join(named[:2])}{more}): images are not flipped left to right "
        "while training. data.mirroring=on flips them all the same."
    )


def _keeps_sides(data: DataConfig) -> bool:
    named = data.mirroring == "auto" and bool(labels_of_sides(data.labels))
    return data.mirroring == "off" or named


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


def _name_of(part: Part) -> str:
    return str(part.get("_target_")).rpartition(".")[2]


def _axes_of(part: Part, all_of_them: Sequence[int]) -> Sequence[int]:
    """Return the axes that a transform of ours mirrors; without a list it mirrors all."""
    axes: Sequence[int] | None = part.get("mirrored_axes")
    return all_of_them if axes is None else axes


def _sideways(orientation: str) -> int:
    """Return the axis from left to right."""
    found = [place for place, letter in enumerate(orientation) if letter in "RL"]
    return found[0] if found else len(orientation)  # two letters: the third is implied


def _flips(part: Part, across: int) -> bool:
    """Tell whether a transform is a flip of an axis."""
    if _name_of(part) not in FLIPS:
        return False
    axes = part.get("spatial_axis")
    if axes is None:
        return True
    return across in (axes if isinstance(axes, list | tuple) else (axes,))
