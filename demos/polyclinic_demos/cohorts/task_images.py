"""Images for each task on brains: what the task asks for, and everything else at random.

People are drawn first, from the seed, the task and the split, so nobody is in two splits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from polyclinic_demos.cohorts.anatomy import Subject, smooth_displacement, subject
from polyclinic_demos.cohorts.hospitals import stable_seed
from polyclinic_demos.cohorts.slices import (
    CONTRASTS,
    PLANES,
    Exposure,
    Field,
    Grey,
    View,
    develop,
    draw_exposure,
    label_map,
    look,
    pool,
    signal_of,
    turned,
)

IMAGES_PER_PERSON = 6
HEIGHTS_MM = (-50.0, 70.0)  # from the cerebellum to the vertex
WARPS_MM = (1.5, 4.5, 8.0)  # root mean square of the displacement
PLACES_MM = {  # in ICBM152's world; the sign of x is drawn
    "cerebellum": (24.0, -64.0, -36.0),
    "brainstem": (0.0, -28.0, -34.0),
    "lateral ventricle": (10.0, 14.0, 14.0),
    "thalamus": (12.0, -20.0, 6.0),
    "frontal cortex": (26.0, 50.0, 16.0),
    "occipital cortex": (18.0, -88.0, 6.0),
    "temporal lobe": (52.0, -18.0, -18.0),
    "parietal cortex": (34.0, -54.0, 50.0),
}
_JITTER_MM = 6.0
# centre and half axes of an ellipsoid well inside the brain
_BRAIN_MM = ((0.0, -18.0, 8.0), (42.0, 55.0, 42.0))
# ranges of the extent with which the brain fits into the image
_WHOLE_MM = {"axial": (186.0, 198.0), "coronal": (168.0, 192.0), "sagittal": (188.0, 200.0)}
_ARTEFACTS = ("none", "motion", "noise", "shading")
_CLEAR_FAMILIES = ("T1", "T2", "FLAIR")  # families in which a lesion is visible

Rng = np.random.Generator


@dataclass(frozen=True, eq=False)
class Drawn:
    """An image and what is known about it.

    Attributes:
        subject: Name of the person.
        pixels: (size, size) for grey, or (size, size, 3).
        label: The number of the class, or a label map of (size, size).
    """

    subject: str
    pixels: Grey
    label: int | Grey


@dataclass(frozen=True)
class BrainTask:
    """One question about a brain.

    Attributes:
        description: One sentence.
        labels: Names of the classes.
        draw: From (person, class, size, random numbers) to an image and its label.
        held_out: Whether no hospital trains on it.
        images_per_person: Number of images of each person.
    """

    description: str
    labels: tuple[str, ...]
    draw: Callable[[Subject, int, int, Rng], tuple[Grey, int | Grey]]
    held_out: bool = False
    images_per_person: int = IMAGES_PER_PERSON


def draw_brains(name: str, seed: int, split: str, count: int, size: int) -> Iterator[Drawn]:
    """Draw a task's images of one split.

    Each image depends only on seed, task, split and index.
    """
    task = BRAIN_TASKS[name]
    person: Subject | None = None
    for index in range(count):
        block, place = divmod(index, len(task.labels))
        shuffle = np.random.default_rng(stable_seed(seed, name, split, "classes", block))
        order = shuffle.permutation(len(task.labels))
        who = person_seed(seed, name, split, index // task.images_per_person)
        person = subject(who) if person is None or index % task.images_per_person == 0 else person
        rng = np.random.default_rng(stable_seed(seed, name, split, "image", index))
        pixels, label = task.draw(person, int(order[place]), size, rng)
        yield Drawn(f"{who:016x}", pixels, label)


def draw_public_brains(seed: int, count: int, size: int) -> Iterator[Drawn]:
    """Draw slices and patches of every plane, scale and scanner, of people who are in no hospital.

    The label is 0.
    """
    person: Subject | None = None
    for index in range(count):
        who = person_seed(seed, "public", "", index // IMAGES_PER_PERSON)
        person = subject(who) if person is None or index % IMAGES_PER_PERSON == 0 else person
        rng = np.random.default_rng(stable_seed(seed, "public", "image", index))
        yield Drawn(f"{who:016x}", _draw_public(person, size, rng), 0)


def person_seed(seed: int, task: str, split: str, number: int) -> int:
    """Return the seed of a person's shape, which also names the person."""
    return stable_seed(seed, task, split, "person", number)


def _draw_public(person: Subject, size: int, rng: Rng) -> Grey:
    whole = rng.random() < 0.5
    if whole:
        view = _whole_view(rng)
    else:
        view = View(_any_plane(rng), _inside(rng), rng.uniform(42, 100), 8.0)
    tissues, exposure = look(person, view, size, rng), draw_exposure(rng)
    exposure = _spoiled(exposure, str(rng.choice(_ARTEFACTS, p=(0.7, 0.1, 0.1, 0.1))), rng)
    signal = signal_of(tissues, exposure)
    if rng.random() < 0.25:
        lesions = _draw_lesions(tissues, view, int(rng.integers(1, 4)), rng)
        signal = _with_lesion(signal, lesions, exposure, rng)
    image = develop(pool(signal), exposure, view.extent_mm / size, rng)
    return turned(image, rng) if not whole or rng.random() < 0.3 else image


def _draw_plane(person: Subject, label: int, size: int, rng: Rng) -> tuple[Grey, int]:
    view = View(list(PLANES)[label], _inside(rng, 0.6), rng.uniform(76, 84))
    return turned(_photograph(person, view, draw_exposure(rng), size, rng), rng), label


def _draw_contrast(person: Subject, label: int, size: int, rng: Rng) -> tuple[Grey, int]:
    exposure = draw_exposure(rng, list(CONTRASTS)[label])
    exposure = replace(exposure, gamma=rng.uniform(0.7, 1.4), bias=rng.uniform(0.3, 0.7))
    return _photograph(person, _whole_view(rng), exposure, size, rng), label


def _draw_structure(person: Subject, label: int, size: int, rng: Rng) -> tuple[Grey, int]:
    place = np.array(list(PLACES_MM.values())[label]) * (rng.choice([-1, 1]), 1, 1)
    x, y, z = (float(value) for value in place + _JITTER_MM * rng.normal(0, 1, 3).clip(-2, 2))
    view = View(str(rng.choice(["axial", "coronal"])), (x, y, z), rng.uniform(43, 48))
    return _photograph(person, view, draw_exposure(rng), size, rng), label


def _draw_tissue(person: Subject, _label: int, size: int, rng: Rng) -> tuple[Grey, Grey]:
    view, exposure = _axial(rng.uniform(-20, 55), rng), draw_exposure(rng)
    tissues = look(person, view, size, rng)
    image = develop(pool(signal_of(tissues, exposure)), exposure, view.extent_mm / size, rng)
    return image, label_map(pool(tissues))


def _draw_lesion(person: Subject, label: int, size: int, rng: Rng) -> tuple[Grey, int]:
    return _lesioned(person, int(rng.integers(1, 3)) * label, size, rng)[0], label


def _draw_lesion_map(person: Subject, _label: int, size: int, rng: Rng) -> tuple[Grey, Grey]:
    return _lesioned(person, int(rng.integers(1, 4)), size, rng)


def _draw_artefact(person: Subject, label: int, size: int, rng: Rng) -> tuple[Grey, int]:
    exposure = _spoiled(draw_exposure(rng), _ARTEFACTS[label], rng)
    return _photograph(person, _whole_view(rng), exposure, size, rng), label


def _draw_warp(person: Subject, label: int, size: int, rng: Rng) -> tuple[Grey, int]:
    view = _axial(rng.normal(8, 1), rng)
    person = deformed(person, WARPS_MM[label], rng)
    return _photograph(person, view, draw_exposure(rng), size, rng), label


def _draw_position(person: Subject, label: int, size: int, rng: Rng) -> tuple[Grey, int]:
    low, high = HEIGHTS_MM
    height = low + (high - low) * (label + rng.random()) / len(BRAIN_TASKS["position"].labels)
    return _photograph(person, _axial(height, rng), draw_exposure(rng), size, rng), label


BRAIN_TASKS = {
    "plane": BrainTask("In which plane a patch of the brain lies.", tuple(PLANES), _draw_plane),
    "contrast": BrainTask(
        "How a slice of the brain is weighted.", tuple(CONTRASTS), _draw_contrast
    ),
    "structure": BrainTask(
        "Which part of the brain a patch shows.", tuple(PLACES_MM), _draw_structure
    ),
    "tissue": BrainTask(
        "Fluid, grey and white matter.",
        ("background", "CSF", "grey matter", "white matter"),
        _draw_tissue,
    ),
    "lesion": BrainTask("Whether a slice shows a lesion.", ("none", "lesion"), _draw_lesion),
    "lesion-map": BrainTask("Where the lesions are.", ("background", "lesion"), _draw_lesion_map),
    "artefact": BrainTask("What spoils a slice.", _ARTEFACTS, _draw_artefact),
    "warp": BrainTask(
        "How unusual a brain's shape is.",
        ("little", "usual", "strong"),
        _draw_warp,
        images_per_person=1,
    ),
    "position": BrainTask(
        "How high a slice lies.",
        ("lowest", "low", "middle", "high", "highest"),
        _draw_position,
        held_out=True,
    ),
}


def _photograph(person: Subject, view: View, exposure: Exposure, size: int, rng: Rng) -> Grey:
    signal = pool(signal_of(look(person, view, size, rng), exposure))
    return develop(signal, exposure, view.extent_mm / size, rng)


def _any_plane(rng: Rng) -> str:
    return str(rng.choice(list(PLANES)))


def _inside(rng: Rng, reach: float = 1.0) -> tuple[float, float, float]:
    """Draw a random place inside the brain; `reach` below 1 keeps to its middle."""
    direction = rng.normal(0, 1, 3)
    place = direction / np.linalg.norm(direction) * rng.random() ** (1 / 3) * reach
    x, y, z = (float(value) for value in np.array(_BRAIN_MM[0]) + place * np.array(_BRAIN_MM[1]))
    return x, y, z


def _axial(height_mm: float, rng: Rng) -> View:
    x, y = rng.normal(0, 2), -18 + rng.normal(0, 2)
    return View("axial", (x, y, height_mm), rng.uniform(*_WHOLE_MM["axial"]))


def _whole_view(rng: Rng) -> View:
    plane = _any_plane(rng)
    x, y, z = rng.normal(0, 2), -18 + rng.normal(0, 2), 5 + rng.normal(0, 2)
    across = {
        "axial": (x, y, rng.uniform(-35, 55)),
        "coronal": (x, rng.uniform(-75, 40), z),
        "sagittal": (rng.uniform(-45, 45), y, z),
    }
    return View(plane, across[plane], rng.uniform(*_WHOLE_MM[plane]))


def _spoiled(exposure: Exposure, artefact: str, rng: Rng) -> Exposure:
    """Add one artefact, mildly."""
    if artefact == "motion":
        return replace(exposure, ghost=rng.uniform(0.35, 0.9))
    if artefact == "noise":
        return replace(exposure, noise=rng.uniform(0.10, 0.18))
    return replace(exposure, bias=rng.uniform(0.65, 1.1)) if artefact == "shading" else exposure


def _lesioned(person: Subject, number: int, size: int, rng: Rng) -> tuple[Grey, Grey]:
    """Draw an axial slice with lesions, and a map of them.

    It lies at the height of the ventricles or above.
    """
    view = _axial(rng.uniform(5, 45), rng)
    exposure = draw_exposure(rng, str(rng.choice(_CLEAR_FAMILIES)))
    # a lesion is only two to four pixels wide
    exposure = replace(exposure, noise=exposure.noise / 2, blur_mm=exposure.blur_mm / 2)
    tissues = look(person, view, size, rng)
    lesions = _draw_lesions(tissues, view, number, rng)
    signal = _with_lesion(signal_of(tissues, exposure), lesions, exposure, rng)
    image = develop(pool(signal), exposure, view.extent_mm / size, rng)
    return image, (pool(lesions) >= 0.5).astype(np.uint8)


def _with_lesion(signal: Field, lesions: Field, exposure: Exposure, rng: Rng) -> Field:
    """Give lesions the intensity of fluid; in FLAIR, a bright one."""
    fluid, _, white = exposure.contrast
    value = white + rng.uniform(0.8, 1.0) * ((1.4 if exposure.family == "FLAIR" else fluid) - white)
    return np.asarray(signal * (1 - lesions) + value * lesions, dtype=np.float32)


def _draw_lesions(tissues: Field, view: View, number: int, rng: Rng) -> Field:
    """Draw blobs with a radius of 3 to 6 mm inside white matter.

    They are on the fine grid: 1 inside, 0 outside.
    """
    mm = view.extent_mm / tissues.shape[-1]
    lesions = np.zeros(tissues.shape[1:], np.float32)
    deep = np.argwhere(gaussian_filter(tissues[2], 2.0 / mm) > 0.75)
    rows, columns = np.indices(lesions.shape)
    for row, column in deep[rng.choice(len(deep), min(number, len(deep)), replace=False)]:
        radius, stretch = rng.uniform(3.5, 5.2), rng.uniform(0.87, 1.15)
        angle = rng.uniform(0, np.pi)
        along = np.cos(angle) * (rows - row) + np.sin(angle) * (columns - column)
        across = np.cos(angle) * (columns - column) - np.sin(angle) * (rows - row)
        lesions[np.hypot(along * stretch, across / stretch) * mm <= radius] = 1
    return lesions


def deformed(person: Subject, rms_mm: float, rng: Rng) -> Subject:
    """Give a person another shape, by a displacement of about this root mean square.

    The pose stays the same.
    """
    noise: NDArray[np.float64] = rng.normal(0, 1, tuple(person.displacement_mm.shape))
    return replace(person, displacement_mm=smooth_displacement(noise, rms_mm))
