"""List of the tasks of a cohort, and the coordinator's public images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

from polyclinic_demos.cohorts import task_volumes
from polyclinic_demos.cohorts.real_data import find_data
from polyclinic_demos.cohorts.task_images import BRAIN_TASKS, Drawn, draw_brains, draw_public_brains
from polyclinic_demos.cohorts.task_sources import (
    CELLS,
    CHEST,
    STRUCTURES,
    draw_cells,
    draw_chest,
    draw_public_cells,
    draw_public_chest,
    draw_structures,
)

_GREY, _COLOURS = ("MR",), ("red", "green", "blue")
# shares of public images, where there are real ones
_CHESTS, _VOLUMES, _REAL = 0.25, 0.3, 0.75


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: Name of its folder.
        description: One sentence.
        labels: Names of the classes.
        channels: Names of the channels.
        draw: From (seed, split, number, size) to images and their labels.
        held_out: Whether no hospital trains on it.
        real: Whether its images are real.
    """

    name: str
    description: str
    labels: tuple[str, ...]
    channels: tuple[str, ...]
    draw: Callable[[int, str, int, int], Iterator[Drawn]]
    held_out: bool = False
    real: bool = False

    @property
    def place(self) -> str:
        """Name of its folder in the cohort's folder."""
        return f"{'held-out' if self.held_out else 'hospitals'}/{self.name}"


def find_tasks(real: bool) -> list[Task]:
    """List all tasks.

    Raises:
        ConfigError: Real images are wanted, and it is not said where they are.
    """
    tasks = [
        Task(name, task.description, task.labels, _GREY, partial(draw_brains, name), task.held_out)
        for name, task in BRAIN_TASKS.items()
    ]
    if not real:
        return tasks
    find_data()
    cells = "Which white blood cell a photograph shows."
    for lab in "acbd":
        draw = partial(draw_cells, f"laboratory-{lab}")
        tasks.append(Task(f"cells-{lab}", cells, CELLS, _COLOURS, draw, lab in "bd", real=True))
    chest = "Whether a radiograph shows pneumonia."
    tasks.append(Task("chest", chest, CHEST, ("X-ray",), draw_chest, real=True))
    structures = "Structures of real brains on a simulated scanner."
    labels = ("background", *STRUCTURES)
    tasks.append(Task("structures", structures, labels, _GREY, draw_structures))
    return tasks + _volume_tasks()


def _volume_tasks() -> list[Task]:
    """List the tasks on gliomas and hippocampi."""
    present, parts = "Whether a slice shows a glioma.", task_volumes.PARTS
    outlines = ("background", *parts[1:])
    elsewhere = partial(task_volumes.draw_tumours, ("cs", "fg"))
    found = (
        ("tumour", present, task_volumes.TUMOUR, partial(task_volumes.draw_tumours, ("ht",))),
        (
            "tumour-map",
            "Outline of a glioma.",
            ("background", "tumour"),
            partial(task_volumes.draw_tumour_maps, ("du",)),
        ),
        (
            "hippocampus-plane",
            "Plane of a slice through a hippocampus.",
            task_volumes.PLANES,
            task_volumes.draw_hippocampus_planes,
        ),
        (
            "hippocampus-map",
            "Outline of both parts of a hippocampus.",
            outlines,
            task_volumes.draw_hippocampus_maps,
        ),
        ("tumour-elsewhere", f"{present} Other hospitals.", task_volumes.TUMOUR, elsewhere),
        (
            "hippocampus-part",
            "Part of a hippocampus that a slice shows.",
            parts,
            task_volumes.draw_hippocampus_parts,
        ),
    )
    apart = ("tumour-elsewhere", "hippocampus-part")
    return [
        Task(name, description, labels, _GREY, draw, name in apart, real=True)
        for name, description, labels, draw in found
    ]


def draw_public(seed: int, size: int, taken: int, public: int, real: bool) -> Iterator[Drawn]:
    """Draw the public images.

    With real data a quarter are chests, up to 30 % slices of real volumes, and some are cells.

    Args:
        seed: Seed of the choice.
        size: Height and width.
        taken: Number of radiographs that the hospital has.
        public: Number of images.
        real: Whether some are real.
    """
    if not real:
        yield from draw_public_brains(seed, public, size)
        return
    others = list(draw_public_chest(seed, taken, int(_CHESTS * public), size))
    others += task_volumes.draw_public_volumes(seed, int(_VOLUMES * public), size)
    others += draw_public_cells(seed, int(_REAL * public) - len(others), size)
    yield from chain(others, draw_public_brains(seed, public - len(others), size))
