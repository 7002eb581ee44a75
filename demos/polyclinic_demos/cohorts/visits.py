"""A hospital whose patients come several times, to train and measure how people are recognized.

folder/dataset.json              each entry names its "subject"; a subject's visits are all in
                                 one split
folder/imagesTr/007_1.nii.gz     the second visit of the eighth subject; labelsTr/ has the same
                                 names; imagesTs/ and labelsTs/ hold the test
folder/visits.json               settings of the cohort
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polyclinic.errors import ConfigError
from polyclinic_demos.cohorts.hospitals import LABELS, SPLITS, Subjects, stable_seed
from polyclinic_demos.cohorts.scanner import Scanner
from polyclinic_demos.cohorts.writing import ScanOrder, write_json, write_scans

T1 = Scanner("t1", "T1", (0.22, 0.62, 1.0), 0.15, 0.02, (1.5, 1.5, 1.5), 0.4, 0.03, "RAS")
T1_ELSEWHERE = Scanner(
    "t1-elsewhere", "T1", (0.28, 0.68, 0.95), 0.25, 0.035, (1.3, 1.3, 1.8), 0.5, 0.03, "LPS"
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Visits:
    """Number of people and visits.

    Attributes:
        subjects: Number of people for training, validation and test.
        visits: Number of visits of every person.
        lesions: Number of lesions of every person, at places of the person's own.
        people: Label maps of real people to start from, one for each subject in the order of the
            splits; without any, people are deformed copies of ICBM152.
    """

    subjects: Subjects
    visits: int = 2
    lesions: int = 0
    people: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if min(self.subjects) < 0 or sum(self.subjects) < 1 or self.visits < 1 or self.lesions < 0:
            raise ConfigError(
                f"{self}: at least one subject and one visit are needed, and no number is below 0."
            )
        if self.people and len(self.people) != sum(self.subjects):
            raise ConfigError(
                f"{len(self.people)} label maps for {sum(self.subjects)} subjects: "
                "give one for each."
            )


def write_visits(
    folder: Path, scanner: Scanner, who: Visits, seed: int = 0, on_progress: Progress | None = None
) -> Path:
    """Write a hospital's folder; scans of the same settings that are already there are kept.

    A script that calls this keeps its own code below `if __name__ == "__main__":`, as it starts
    processes.

    Args:
        folder: The hospital's folder; made if need be.
        scanner: Scanner of all scans.
        who: Subjects and visits.
        seed: Another seed gives other people and other noise.
        on_progress: Called with the number of scans done, and their total.

    Raises:
        ConfigError: The folder holds a cohort of other settings.
        DiskFull: There is too little room.
    """
    people = [path.name for path in who.people]
    plain = {"scanner": asdict(scanner), "seed": seed, **asdict(who), "people": people}
    settings = json.loads(json.dumps(plain))
    orders = _orders(folder, scanner, who, seed)
    _claim(folder, settings)
    todo = [order for order in orders if not all(path.is_file() for path in order.files.values())]
    for done, _ in enumerate(write_scans(todo), start=len(orders) - len(todo) + 1):
        if on_progress is not None:
            on_progress(done, len(orders))
    splits: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
    for order in orders:
        files = {kind: f"./{path.relative_to(folder)}" for kind, path in order.files.items()}
        splits[order.split].append({**files, "subject": order.stem.rpartition("_")[0]})
    tree = {
        "name": folder.name,
        "description": f"Simulated {scanner.modality} scans, brain only; "
        f"every subject comes {who.visits} times.",
        "modality": {"0": scanner.modality},
        "labels": LABELS,
        "tensorImageSize": "3D",
        **splits,
    }
    write_json(folder / "dataset.json", tree)
    return folder


def _orders(folder: Path, scanner: Scanner, who: Visits, seed: int) -> list[ScanOrder]:
    orders: list[ScanOrder] = []
    people = iter(who.people)
    for split, count in zip(SPLITS, who.subjects, strict=True):
        for index in range(count):
            person, number = next(people, None), len(orders) // who.visits
            chosen = stable_seed(seed, scanner.name, split, index)
            for visit in range(who.visits):
                stem = f"{number:03d}_{visit}"
                orders.append(
                    ScanOrder(folder, stem, split, scanner, chosen, person, visit, who.lesions)
                )
    return orders


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Record the settings of the folder, before anything else is in it."""
    record = folder / "visits.json"
    if record.is_file():
        if json.loads(record.read_text(encoding="utf-8")) != settings:
            raise ConfigError(
                f"{folder} holds a cohort of other settings: choose another folder, or remove it."
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"{folder} holds files that are not from a demo cohort: "
            "choose another folder, or remove it."
        )
    write_json(record, settings)
