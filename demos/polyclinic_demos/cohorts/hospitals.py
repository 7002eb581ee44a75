"""The demo hospitals: six different scanners, each with a folder of its own patients.

`write_cohort(folder)` writes, for every hospital, what a real one would have:

    folder/mprage-3t/dataset.json        in the format of the Medical Segmentation Decathlon
    folder/mprage-3t/imagesTr/mprage-3t_001.nii.gz
                                         training and validation; labelsTr/ has the same names
    folder/mprage-3t/imagesTs/mprage-3t_006.nii.gz
                                         test; labelsTs/ has the same names
    folder/cohort.json                   settings of every hospital, to reuse what is complete
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from polyclinic.errors import ConfigError, DiskFull
from polyclinic_demos.cohorts.real_data import find_data
from polyclinic_demos.cohorts.scanner import Scanner
from polyclinic_demos.cohorts.writing import ScanOrder, write_json, write_scans

HOSPITALS = (
    Scanner("mprage-3t", "T1", (0.22, 0.62, 1.0), 0.15, 0.015, (1.0, 1.0, 1.0), 0.4, 0.03, "PIR"),
    Scanner("spgr-1.5t", "T1", (0.30, 0.70, 0.95), 0.30, 0.05, (1.0, 1.0, 1.5), 0.5, 0.03, "LIA"),
    Scanner("thick-t1", "T1", (0.28, 0.72, 0.92), 0.20, 0.03, (0.9, 0.9, 3.0), 0.5, 0.03, "LPS"),
    Scanner("low-field", "T1", (0.35, 0.72, 0.90), 0.45, 0.08, (1.6, 1.6, 2.5), 0.9, 0.04, "LAS"),
    Scanner("t2w", "T2", (1.0, 0.62, 0.42), 0.20, 0.03, (1.0, 1.0, 2.0), 0.5, 0.03, "RAS"),
    Scanner("flair", "FLAIR", (0.15, 0.95, 0.75), 0.25, 0.04, (1.0, 1.0, 2.0), 0.5, 0.03, "PSR"),
)
# hospitals that join later: one like the T1 hospitals, one like the T2 hospital, and one with a
# contrast of its own
NEWCOMERS = (
    Scanner("t1-new", "T1", (0.26, 0.66, 0.97), 0.25, 0.03, (1.0, 1.0, 1.2), 0.5, 0.03, "LAS"),
    Scanner("t2-new", "T2", (0.95, 0.58, 0.45), 0.25, 0.04, (1.0, 1.0, 2.5), 0.5, 0.03, "LPS"),
    # double inversion recovery
    Scanner("dir-new", "DIR", (0.20, 1.0, 0.35), 0.20, 0.04, (1.0, 1.0, 2.0), 0.5, 0.03, "RAS"),
)
SPLITS = ("training", "validation", "test")
LABELS = {"0": "background", "1": "CSF", "2": "grey matter", "3": "white matter"}

Anatomy = Literal["icbm152", "real"]
Subjects = tuple[int, int, int]  # training, validation, test
Progress = Callable[[int, int, str], None]  # number of scans done, their total, the last one

_FORMAT = 1  # raise this when the same settings give other voxels
_RECORD = "cohort.json"
_BYTES_PER_SCAN = 7 * 2**20


def write_cohort(
    folder: Path,
    *,
    sites: int = 6,
    subjects: Subjects = (4, 1, 2),
    seed: int = 0,
    anatomy: Anatomy = "icbm152",
    on_progress: Progress | None = None,
    scanners: Sequence[Scanner] = HOSPITALS,
    processes: int = 2,
) -> list[Path]:
    """Write one folder per hospital; hospitals that are complete with the same settings are reused.

    A script that calls this keeps its own code below `if __name__ == "__main__":`, as it starts
    processes.

    Args:
        folder: Parent of the hospitals' folders; made if it does not exist.
        sites: Number of hospitals, the first ones of `scanners`.
        subjects: Number of people for training, validation and test of each hospital.
        seed: Another seed gives other people and other noise.
        anatomy: "icbm152", an average brain that is installed with the package, or "real": the
            label maps of real people in the folder `POLYCLINIC_DATA`, divided so that no two
            hospitals, and no training and test, share a person.
        on_progress: Called after every scan.
        scanners: The hospitals to choose from.
        processes: At most so many write; 1 writes in this process.

    Returns:
        The hospitals' folders.

    Raises:
        ConfigError: A setting is impossible, or a hospital's folder holds files of another origin.
        DiskFull: There is too little room.
        RunError: A process that writes scans died.
    """
    _check(sites, subjects, seed, scanners)
    folder = Path(folder).resolve()
    chosen = list(scanners[:sites])
    people = _real_people(sites, seed) if anatomy == "real" else [()] * sites
    orders, wanted = {}, {}
    for scanner, who in zip(chosen, people, strict=True):
        orders[scanner.name] = _orders(folder, scanner, subjects, seed, who)
        names = [path.name for path in who]
        wanted[scanner.name] = _settings(scanner, subjects, seed, anatomy, names)
    record = _read_record(folder)
    todo = [
        s
        for s in chosen
        if not _complete(folder / s.name, record.get(s.name), wanted[s.name], orders[s.name])
    ]
    total, report = sum(map(len, orders.values())), on_progress or _silent
    done = total - sum(len(orders[s.name]) for s in todo)
    if done:
        report(done, total, "already there")
    _make_room(folder, todo, record, total - done)
    for scanner in todo:
        record[scanner.name] = {"complete": False, **wanted[scanner.name]}
    _write_record(folder, record)
    left = Counter({s.name: len(orders[s.name]) for s in todo})
    for order in write_scans([order for s in todo for order in orders[s.name]], processes):
        done, site = done + 1, order.scanner.name
        left[site] -= 1
        if left[site] == 0:
            content = _dataset(order.scanner, orders[site], anatomy)
            write_json(folder / site / "dataset.json", content)
            record[site] = {**record[site], "complete": True}
            _write_record(folder, record)
        report(done, total, order.stem)
    return [folder / scanner.name for scanner in chosen]


def write_unlabelled(site: Path, folder: Path) -> Path:
    """List a hospital's training and validation images without labels, as a newcomer would.

    Args:
        site: A hospital's folder, from `write_cohort`.
        folder: Folder for the list, `dataset.json`, and the images: hard links where possible.

    Returns:
        The folder.
    """
    described = json.loads((site / "dataset.json").read_text(encoding="utf-8"))
    cases = [case["image"] for split in ("training", "validation") for case in described[split]]
    for image in cases:
        target = folder / image
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(site / image, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(site / image, target)
    kept = {key: value for key, value in described.items() if key not in SPLITS}
    write_json(folder / "dataset.json", {**kept, "test": cases})
    return folder


def _check(sites: int, subjects: Subjects, seed: int, scanners: Sequence[Scanner]) -> None:
    if not 1 <= sites <= len(scanners):
        raise ConfigError(
            f"The demo cohort has 1 to {len(scanners)} hospitals, {sites} were asked for."
        )
    if len(subjects) != len(SPLITS) or min(subjects) < 0 or subjects[0] < 1:
        raise ConfigError(
            "The demo cohort needs three numbers of subjects (training at least 1, "
            f"validation and test at least 0), {tuple(subjects)} were given."
        )
    if seed < 0:
        raise ConfigError(f"The demo cohort's seed must be at least 0, it is {seed}.")


def _orders(
    folder: Path, scanner: Scanner, subjects: Subjects, seed: int, people: Sequence[Path]
) -> list[ScanOrder]:
    """List a hospital's scans.

    Each seed depends only on hospital, split and index, so that adding one scan changes no other.
    """
    orders: list[ScanOrder] = []
    for split, count, pool in zip(SPLITS, subjects, _pools(people, subjects), strict=True):
        for index in range(count):
            stem = f"{scanner.name}_{len(orders) + 1:03d}"
            subject_seed = stable_seed(seed, scanner.name, split, index)
            person = pool[index % len(pool)] if pool else None
            orders.append(
                ScanOrder(folder / scanner.name, stem, split, scanner, subject_seed, person)
            )
    return orders


def stable_seed(*parts: str | int) -> int:
    """Turn names and numbers into a seed below 2^62 that is the same on every machine."""
    return int.from_bytes(sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 2


def _real_people(sites: int, seed: int) -> list[tuple[Path, ...]]:
    """Divide the real label maps among the hospitals, at least two people for each."""
    root = find_data(
        "Real anatomies need POLYCLINIC_DATA, the folder that holds brain_label_maps/: set it, "
        "or choose icbm152."
    )
    maps = sorted((root / "brain_label_maps").glob("training_seg_*.nii.gz"))
    if len(maps) < 2 * sites:
        raise ConfigError(
            f"{root} has {len(maps)} label maps in brain_label_maps/, "
            f"{sites} hospitals need at least {2 * sites}: choose fewer hospitals, or icbm152."
        )
    maps.sort(key=lambda path: stable_seed(seed, path.name))
    return [tuple(maps[site::sites]) for site in range(sites)]


def _pools(
    people: Sequence[Path], subjects: Subjects
) -> tuple[Sequence[Path], Sequence[Path], Sequence[Path]]:
    """Divide a hospital's people into training, validation and test.

    Of two people, one is for the test alone.
    """
    quarter = max(1, len(people) // 4)
    test = min(subjects[2], quarter)
    validation = min(subjects[1], quarter) if len(people) - test > 1 else 0
    training = people[test + validation :]
    return training, people[test : test + validation] or training, people[:test]


def _settings(
    scanner: Scanner, subjects: Subjects, seed: int, anatomy: Anatomy, people: list[str]
) -> dict[str, Any]:
    """Return everything that determines a hospital's voxels, as JSON returns it."""
    settings = {
        "format": _FORMAT,
        "seed": seed,
        "subjects": subjects,
        "anatomy": anatomy,
        "people": people,
    }
    plain: dict[str, Any] = json.loads(json.dumps({**settings, "scanner": asdict(scanner)}))
    return plain


def _dataset(scanner: Scanner, orders: Sequence[ScanOrder], anatomy: Anatomy) -> dict[str, Any]:
    source = "the ICBM152 average brain" if anatomy == "icbm152" else "label maps of real people"
    splits: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
    for order in orders:
        files = {kind: f"./{path.relative_to(order.site)}" for kind, path in order.files.items()}
        splits[order.split].append(files)
    return {
        "name": scanner.name,
        "description": f"Simulated {scanner.modality} scans of deformed copies of {source}, "
        "brain only.",
        "modality": {"0": scanner.modality},
        "labels": LABELS,
        "tensorImageSize": "3D",
        **splits,
    }


def _complete(
    site: Path, recorded: object, wanted: dict[str, Any], orders: Sequence[ScanOrder]
) -> bool:
    files = [site / "dataset.json", *(path for order in orders for path in order.files.values())]
    return recorded == {"complete": True, **wanted} and all(path.is_file() for path in files)


def _make_room(folder: Path, todo: Sequence[Scanner], record: dict[str, Any], scans: int) -> None:
    """Remove leftovers of an earlier run in the hospitals to be written.

    A folder that was not written here is never touched.
    """
    for scanner in todo:
        site = folder / scanner.name
        if site.exists() and scanner.name not in record and any(site.iterdir()):
            raise ConfigError(
                f"{site} holds files that are not from a demo cohort: "
                "choose another folder, or remove it."
            )
    for scanner in todo:
        (folder / scanner.name / "dataset.json").unlink(missing_ok=True)
        for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            shutil.rmtree(folder / scanner.name / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(folder).free, scans * _BYTES_PER_SCAN
    if free < needed:
        raise DiskFull(folder, free, needed)


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    hospitals = record.get("hospitals") if isinstance(record, dict) else None
    return dict(hospitals) if isinstance(hospitals, dict) else {}


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    write_json(folder / _RECORD, {"hospitals": record})


def _silent(_done: int, _total: int, _text: str) -> None:
    pass
