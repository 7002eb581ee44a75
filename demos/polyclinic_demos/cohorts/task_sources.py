"""Tasks on real images, from the folder `POLYCLINIC_DATA`.

They are white blood cells, chest radiographs, and the structures of real brains. Cells and chests
are divided by image, brains by person. Images that no task takes become public images without
labels.
"""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from polyclinic.errors import ConfigError
from polyclinic_demos.cohorts.anatomy import TISSUES
from polyclinic_demos.cohorts.hospitals import stable_seed
from polyclinic_demos.cohorts.laboratories import PHOTOGRAPHS, Photograph, find_photographs
from polyclinic_demos.cohorts.real_data import find_data
from polyclinic_demos.cohorts.slices import (
    FINE,
    Grey,
    View,
    develop,
    draw_exposure,
    label_map,
    plane_axes,
    pool,
)
from polyclinic_demos.cohorts.task_images import Drawn
from polyclinic_strategies.proxy.frame.icbm152 import read_volume

CELLS = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
CHEST = ("normal", "pneumonia")
STRUCTURES = {  # numbers of FreeSurfer's colour table, left and right
    "ventricles": (4, 5, 14, 15, 43, 44),
    "deep grey matter": (10, 11, 12, 13, 26, 49, 50, 51, 52, 58),
    "hippocampus and amygdala": (17, 18, 53, 54),
    "cerebellum": (7, 8, 46, 47),
    "brainstem": (16,),
}
_CODES = 1024
_PUBLIC_SHARE = 0.25  # share of a laboratory's images that become public
_SHARES = {"training": 0.6, "validation": 0.15, "test": 0.25}  # shares of the other images
# a laboratory on which nobody trains: few images are its own, most of them test
_APART, _APART_FOLDER = "laboratory-d", "white_blood_cells_4th"
_APART_SHARES = {"training": 0.3, "validation": 0.1, "test": 0.6}
_PEOPLE = {"training": (0, 10), "validation": (10, 12), "test": (12, 16)}
_SHOWN_PIXELS = 8  # a structure with at least this number of pixels counts as shown
_TRIES = 50


def draw_cells(laboratory: str, seed: int, split: str, count: int, size: int) -> Iterator[Drawn]:
    """Take a laboratory's images of one split, the same number of each class if possible."""
    pools = [pool[split] for pool in _divide_cells(seed, laboratory).values()]
    for each in _in_turn(pools)[:count]:
        yield Drawn(_name(each), _shrunk(each, size), CELLS.index(each.label))


def draw_public_cells(seed: int, count: int, size: int) -> Iterator[Drawn]:
    """Take the laboratories' public images; the label is 0."""
    given = [
        each
        for laboratory in "abc"
        for pool in _divide_cells(seed, f"laboratory-{laboratory}").values()
        for each in pool["public"]
    ]
    for each in sorted(given, key=lambda each: stable_seed(seed, _name(each)))[:count]:
        yield Drawn(_name(each), _shrunk(each, size), 0)


def draw_chest(seed: int, split: str, count: int, size: int) -> Iterator[Drawn]:
    """Take radiographs of one split of the file, the same number of each class."""
    for number, label in _choose_chest(seed, split, count):
        yield Drawn(f"{split}-{number}", _enlarged(_chest()[split][0][number], size), label)


def draw_public_chest(seed: int, taken: int, count: int, size: int) -> Iterator[Drawn]:
    """Take training radiographs except for the first `taken`, which the hospital has.

    The label is 0.
    """
    hospital = {number for number, _ in _choose_chest(seed, "training", taken)}
    images = _chest()["training"][0]
    others = sorted({*range(len(images))} - hospital, key=lambda n: stable_seed(seed, "public", n))
    for number in others[:count]:
        yield Drawn(f"training-{number}", _enlarged(images[number], size), 0)


def draw_structures(seed: int, split: str, count: int, size: int) -> Iterator[Drawn]:
    """Draw slices of real people on a simulated scanner, each with at least two structures."""
    shuffled = sorted(_people(), key=lambda path: stable_seed(seed, path.name))
    people = shuffled[slice(*_PEOPLE[split])]
    found: dict[int, Drawn] = {}
    for place, person in enumerate(people):  # person by person: reading a brain is slow
        for index in range(place, count, len(people)):
            rng = np.random.default_rng(stable_seed(seed, "structures", split, "image", index))
            found[index] = _draw_structures(person, size, rng)
    yield from (found[index] for index in range(count))


def _divide_cells(seed: int, laboratory: str) -> dict[str, dict[str, list[Photograph]]]:
    """Divide each class of a laboratory by the shares.

    The order depends only on the seed and the image's name.
    """
    divided = {}
    for label in CELLS:
        mine = [
            each
            for each in _photographs(os.environ.get("POLYCLINIC_DATA"), _folder(laboratory))
            if (each.laboratory, each.label) == (laboratory, label)
        ]
        mine.sort(key=lambda each: stable_seed(seed, _name(each)))
        apart = laboratory == _APART
        public = 0 if apart else round(_PUBLIC_SHARE * len(mine))
        rest, shares = mine[public:], _APART_SHARES if apart else _SHARES
        test, validation = (round(shares[split] * len(rest)) for split in ("test", "validation"))
        cut = len(rest) - test - validation
        divided[label] = {
            "public": mine[:public],
            "training": rest[:cut],
            "validation": rest[cut : cut + validation],
            "test": rest[cut + validation :],
        }
    return divided


@lru_cache(maxsize=2)
def _photographs(_root: str | None, folder: str) -> list[Photograph]:
    return find_photographs(folder)


def _folder(laboratory: str) -> str:
    return _APART_FOLDER if laboratory == _APART else PHOTOGRAPHS


def _in_turn(pools: Sequence[Sequence[Photograph]]) -> list[Photograph]:
    """Return the first photograph of every class, then the second of every class, and so on."""
    return [
        pool[place] for place in range(max(map(len, pools))) for pool in pools if place < len(pool)
    ]


def _choose_chest(seed: int, split: str, count: int) -> list[tuple[int, int]]:
    """Choose number and class of the radiographs of a split.

    Both classes have the same number, at most that of the rarer class.
    """
    labels = _chest()[split][1]
    ranked = [
        sorted(np.flatnonzero(labels == label).tolist(), key=lambda n: stable_seed(seed, split, n))
        for label in range(len(CHEST))
    ]
    pairs = zip(*ranked, strict=False)
    return [(pair[label], label) for pair in pairs for label in range(len(CHEST))][:count]


def _chest() -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    return _read_chest(find_data() / "pneumoniamnist.npz")


@lru_cache(maxsize=1)
def _read_chest(path: Path) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Read images and classes of each split, each image once.

    A copy could be in training and in test.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            raw = {
                split: (file[f"{short}_images"], file[f"{short}_labels"].ravel())
                for split, short in _short_names()
            }
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{path}: cannot be read as the pneumonia data of MedMNIST. "
            "Set POLYCLINIC_DATA to the folder that holds it."
        ) from error
    seen: set[bytes] = set()
    distinct = {}
    for split, (images, labels) in raw.items():
        digests = [sha256(image.tobytes()).digest() for image in images]
        fresh = []
        for number, digest in enumerate(digests):
            if digest not in seen:
                seen.add(digest)
                fresh.append(number)
        distinct[split] = (np.asarray(images[fresh], np.uint8), np.asarray(labels[fresh], np.int64))
    return distinct


def _short_names() -> tuple[tuple[str, str], ...]:
    return (("test", "test"), ("validation", "val"), ("training", "train"))


def _draw_structures(person: Path, size: int, rng: np.random.Generator) -> Drawn:
    codes, affine = _read_structures(person)
    centre = affine[:3, :3] @ _middle(person) + affine[:3, 3]
    for _ in range(_TRIES):
        plane = str(rng.choice(["axial", "coronal"]))
        if plane == "axial":
            offset = np.array([0, 0, rng.uniform(-45, 30)])
        else:
            offset = np.array([0, rng.uniform(-50, 30), 0])
        x, y, z = (float(value) for value in centre + offset + rng.normal(0, 2, 3))
        view = View(plane, (x, y, z), rng.uniform(176, 198))
        shown = _slice(codes, affine, view, size, rng)
        names = np.stack(
            [pool(np.isin(shown, wanted).astype(np.float32)) for wanted in STRUCTURES.values()]
        )
        labels = label_map(names)
        pixels = np.bincount(labels.ravel(), minlength=len(STRUCTURES) + 1)[1:]
        if (pixels >= _SHOWN_PIXELS).sum() >= 2:
            break
    exposure = draw_exposure(rng)
    intensity = np.zeros(_CODES, np.float32)
    for value, tissue in zip(exposure.contrast, TISSUES, strict=True):
        intensity[list(tissue)] = value * np.exp(rng.normal(0, 0.06, len(tissue)))
    image = develop(pool(intensity[shown]), exposure, view.extent_mm / size, rng)
    return Drawn(person.name.removesuffix(".nii.gz"), image, labels)


def _slice(
    codes: NDArray[np.int16],
    affine: NDArray[np.float64],
    view: View,
    size: int,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """Return the nearest label at every fine point of a slice; 0 outside of the volume."""
    fine = FINE * size
    down, right = (axis * view.extent_mm / fine for axis in plane_axes(view, rng).T[:2])
    rows, columns = np.indices((fine, fine)) - (fine - 1) / 2
    moved = down[:, None, None] * rows + right[:, None, None] * columns
    world = np.array(view.centre_mm)[:, None, None] + moved
    from_origin = world - affine[:3, 3][:, None, None]
    index = np.einsum("ij,jhw->ihw", np.linalg.inv(affine[:3, :3]), from_origin)
    index = index.round().astype(np.int64)
    last = np.array(codes.shape)[:, None, None] - 1
    inside = ((index >= 0) & (index <= last)).all(0)
    found: NDArray[np.int16] = codes[tuple(index.clip(0, last))]
    return np.where(inside, found, np.int16(0))


def _people() -> list[Path]:
    found = list((find_data() / "brain_label_maps").glob("training_seg_*.nii.gz"))
    wanted = _PEOPLE["test"][1]
    if len(found) < wanted:
        raise ConfigError(
            f"{find_data()} has {len(found)} label maps in brain_label_maps/, the structures need "
            f"{wanted}. Get the folder again."
        )
    return found


@lru_cache(maxsize=1)
def _read_structures(path: Path) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    codes, affine = read_volume(path)
    return np.where((codes >= 0) & (codes < _CODES), codes, 0).astype(np.int16), affine


@lru_cache(maxsize=1)
def _middle(path: Path) -> NDArray[np.float64]:
    """Return the middle of the brain, in voxels."""
    codes = [code for tissue in TISSUES for code in tissue]
    brain = np.isin(_read_structures(path)[0][::2, ::2, ::2], codes)
    ends = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
    return np.array([float(low + high) for low, high in ends])


def _shrunk(photograph: Photograph, size: int) -> Grey:
    with Image.open(photograph.source) as picture:
        small = picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
        return np.asarray(small, dtype=np.uint8)


def _enlarged(pixels: Grey, size: int) -> Grey:
    large = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(large, dtype=np.uint8)


def _name(photograph: Photograph) -> str:
    return f"{photograph.laboratory}/{photograph.source.stem}"
