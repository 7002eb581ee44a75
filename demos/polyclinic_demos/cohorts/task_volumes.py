"""Tasks on slices of real volumes, from the folder `POLYCLINIC_DATA`.

They are gliomas of real hospitals (`lgg_mri`) and hippocampi (`hippocampus`). Everything is divided
by patient: nobody is in two splits, in two tasks, or in a task and the public images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from polyclinic.errors import ConfigError
from polyclinic_demos.cohorts.hospitals import stable_seed
from polyclinic_demos.cohorts.real_data import find_data
from polyclinic_demos.cohorts.slices import Grey, turned
from polyclinic_demos.cohorts.task_images import Drawn

TUMOUR = ("no tumour", "tumour")
PLANES = ("sagittal", "coronal", "axial")
PARTS = ("neither", "anterior hippocampus", "posterior hippocampus")
_SHARES = {"training": 0.5, "validation": 0.15, "test": 0.35}  # of a task's patients
# shares of all hippocampi, one after another
_HIPPOCAMPI = {"public": 0.2, "plane": 0.28, "map": 0.28, "part": 0.24}
# share of these hospitals' patients whose images become public; of others none do
_PUBLIC_SHARE, _PUBLIC_FROM = 0.2, ("du", "ht")
_TUMOUR_PIXELS = 20  # a slice with at least this number of them shows a tumour
_BRAIN_SHARE = 0.15  # share of a slice that is brain; slices with less are not taken
_STRUCTURE_PIXELS = 8  # of each part that a slice of `map` shows
_WINDOW = 32  # side of the square that a slice of a hippocampus is cut to, where planes are asked

Volume = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Patient:
    """One person's volume, 8 bits, and its labels."""

    name: str
    image: Volume
    label: Volume


@dataclass(frozen=True)
class _Place:
    """A slice of one axis, and its class."""

    axis: int
    index: int
    label: int = 0


def draw_tumours(
    hospitals: Sequence[str], seed: int, split: str, count: int, size: int
) -> Iterator[Drawn]:
    """Draw slices with and without a glioma, as many of each, patient by patient."""
    yield from _draw(_glioma_patients(hospitals, seed, split), seed, _with_and_without, count, size)


def draw_tumour_maps(
    hospitals: Sequence[str], seed: int, split: str, count: int, size: int
) -> Iterator[Drawn]:
    """Draw slices that show a glioma, and its outline."""
    patients = _glioma_patients(hospitals, seed, split)
    yield from _draw(patients, seed, _with_tumour, count, size, outlined=True)


def draw_hippocampus_planes(seed: int, split: str, count: int, size: int) -> Iterator[Drawn]:
    """Draw square windows of the three planes, turned at random."""
    patients = _hippocampus_patients("plane", seed, split)
    yield from _draw(patients, seed, _any_plane, count, size, window=_WINDOW)


def draw_hippocampus_maps(seed: int, split: str, count: int, size: int) -> Iterator[Drawn]:
    """Draw sagittal slices that show both parts, and their outlines."""
    patients = _hippocampus_patients("map", seed, split)
    yield from _draw(patients, seed, _both_parts, count, size, outlined=True)


def draw_hippocampus_parts(seed: int, split: str, count: int, size: int) -> Iterator[Drawn]:
    """Draw coronal slices that show one part, or neither."""
    patients = _hippocampus_patients("part", seed, split)
    yield from _draw(patients, seed, _one_part, count, size)


def draw_public_volumes(seed: int, count: int, size: int) -> Iterator[Drawn]:
    """Draw slices of patients who are in no task, half of them brains; the label is 0."""
    brains = _draw(_glioma_patients(_PUBLIC_FROM, seed, "public"), seed, _brain, count // 2, size)
    yield from (Drawn(each.subject, each.pixels, 0) for each in brains)
    patients = _hippocampus_patients("public", seed, "public")
    others = _draw(patients, seed, _any_plane, count - count // 2, size)
    yield from (Drawn(each.subject, each.pixels, 0) for each in others)


def _draw(
    patients: Sequence[_Patient],
    seed: int,
    find: Callable[[_Patient], list[list[_Place]]],
    count: int,
    size: int,
    *,
    outlined: bool = False,
    window: int = 0,
) -> Iterator[Drawn]:
    """Take slices of every patient and every class in turn.

    Args:
        patients: Whose volumes.
        seed: Seed of the choice.
        find: Finds the slices of each class; of every class the same number is taken.
        count: Most images.
        size: Their height and width.
        outlined: Whether the label is a map.
        window: Side of a square in the middle of each slice, turned at random; 0: the whole slice.
    """
    queues = [_in_turn(patient, find(patient), seed) for patient in patients]
    rounds = zip_longest(*queues)
    chosen = [
        (patient, place)
        for turn in rounds
        for patient, places in zip(patients, turn, strict=True)
        for place in places or ()
    ]
    for patient, place in chosen[:count]:
        rng = np.random.default_rng(stable_seed(seed, patient.name, place.axis, place.index))
        image, label = (
            np.take(volume, place.index, place.axis) for volume in (patient.image, patient.label)
        )
        if window:
            image = turned(_cut(image, window), rng)
        pixels = _resized(_square(image), size, Image.Resampling.BICUBIC)
        outline = _resized(_square(label), size, Image.Resampling.NEAREST)
        yield Drawn(patient.name, pixels, outline if outlined else place.label)


def _in_turn(
    patient: _Patient, pools: Sequence[Sequence[_Place]], seed: int
) -> list[tuple[_Place, ...]]:
    """Return one slice of every class, then another of every class, and so on."""
    shuffled = [
        sorted(pool, key=lambda each: stable_seed(seed, patient.name, each.axis, each.index))
        for pool in pools
    ]
    return list(zip(*shuffled, strict=False))


def _with_and_without(patient: _Patient) -> list[list[_Place]]:
    shown = (patient.label > 0).sum((0, 1))
    brains = [each.index for each in _brain(patient)[0]]
    without = [_Place(2, index, 0) for index in brains if shown[index] == 0]
    return [without, [_Place(2, index, 1) for index in brains if shown[index] >= _TUMOUR_PIXELS]]


def _with_tumour(patient: _Patient) -> list[list[_Place]]:
    return _with_and_without(patient)[1:]


def _brain(patient: _Patient) -> list[list[_Place]]:
    share = (patient.image > 16).mean((0, 1))
    return [[_Place(2, int(index)) for index in np.flatnonzero(share >= _BRAIN_SHARE)]]


def _any_plane(patient: _Patient) -> list[list[_Place]]:
    return [
        [_Place(axis, index, axis) for index in range(length // 4, length - length // 4)]
        for axis, length in enumerate(patient.image.shape)
    ]


def _both_parts(patient: _Patient) -> list[list[_Place]]:
    shown = np.stack([(patient.label == part).sum((1, 2)) for part in (1, 2)])
    return [[_Place(0, int(index)) for index in np.flatnonzero(shown.min(0) >= _STRUCTURE_PIXELS)]]


def _one_part(patient: _Patient) -> list[list[_Place]]:
    shown = np.stack([(patient.label == part).sum((0, 2)) for part in (1, 2)])
    clear = {
        0: shown.max(0) == 0,
        1: (shown[0] >= _STRUCTURE_PIXELS) & (shown[1] == 0),
        2: (shown[1] >= _STRUCTURE_PIXELS) & (shown[0] == 0),
    }
    return [
        [_Place(1, int(index), label) for index in np.flatnonzero(found)]
        for label, found in clear.items()
    ]


def _glioma_patients(hospitals: Sequence[str], seed: int, split: str) -> list[_Patient]:
    """Read the patients of one split of some hospitals, or their public ones."""
    found = []
    for hospital in hospitals:
        paths = _shuffled(find_data() / "lgg_mri" / hospital, seed)
        public = round(_PUBLIC_SHARE * len(paths)) if hospital in _PUBLIC_FROM else 0
        chosen = paths[:public] if split == "public" else _divided(paths[public:])[split]
        found += [_read(path) for path in chosen]
    return found


def _hippocampus_patients(task: str, seed: int, split: str) -> list[_Patient]:
    """Read the patients of one split of a task."""
    paths = _shuffled(find_data() / "hippocampus", seed)
    begin = 0.0
    for name, share in _HIPPOCAMPI.items():
        end = begin + share
        if name == task:
            paths = paths[round(begin * len(paths)) : round(end * len(paths))]
            break
        begin = end
    return [_read(path) for path in (paths if split == "public" else _divided(paths)[split])]


def _divided(paths: Sequence[Path]) -> dict[str, Sequence[Path]]:
    test, validation = (
        max(1, round(_SHARES[name] * len(paths))) for name in ("test", "validation")
    )
    cut = len(paths) - test - validation
    return {
        "training": paths[:cut],
        "validation": paths[cut : cut + validation],
        "test": paths[cut + validation :],
    }


def _shuffled(folder: Path, seed: int) -> list[Path]:
    """Return the folder's images in an order that only the seed and their names decide."""
    found = sorted((folder / "images").glob("*.nii.gz"))
    if len(found) < 5:
        raise ConfigError(
            f"{folder} has {len(found)} volumes in images/, the tasks need at least 5. "
            "Get the folder again."
        )
    return sorted(found, key=lambda path: stable_seed(seed, path.name))


@lru_cache(maxsize=300)
def _read(path: Path) -> _Patient:
    try:
        image, label = (
            np.asarray(nibabel.load(each).dataobj, np.float32)
            for each in (path, path.parent.with_name("labels") / path.name)
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: it, or its label, cannot be read. Get it again.") from error
    bright = max(float(np.percentile(image, 99.8)), 1e-6)
    grey = (image.clip(0, bright) / bright * 255).round().astype(np.uint8)
    return _Patient(path.name.removesuffix(".nii.gz"), grey, label.round().astype(np.uint8))


def _cut(image: Grey, side: int) -> Grey:
    """Return a square of the middle, or what there is of it."""
    begins = [max(0, (length - side) // 2) for length in image.shape]
    return image[begins[0] : begins[0] + side, begins[1] : begins[1] + side]


def _square(image: Grey) -> Grey:
    """Add a black margin to the shorter side."""
    side = max(image.shape)
    before = [(side - length) // 2 for length in image.shape]
    margins = [
        (least, side - length - least) for least, length in zip(before, image.shape, strict=True)
    ]
    return np.pad(image, margins)


def _resized(image: Grey, size: int, how: Image.Resampling) -> Grey:
    return np.asarray(Image.fromarray(image).resize((size, size), how), dtype=np.uint8)
