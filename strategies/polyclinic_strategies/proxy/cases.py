"""Scans in the canonical frame, at three resolutions, with labels and by subject.

Training and attackers use them. Registering and resampling a scan takes seconds, so the results are
kept on disk and used again.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polyclinic.config.schemas import Config
from polyclinic.errors import DatasetInvalid
from polyclinic.imaging.datasets import Case, SiteDataset
from polyclinic.imaging.deformation import identity, sample
from polyclinic.imaging.volumes import read_image, read_label
from polyclinic.learning.state_dict import load_state, save_state
from polyclinic.system.console import Say
from polyclinic.system.text import json_digest
from polyclinic_strategies.proxy.frame.atlas import Reference, icbm152_reference
from polyclinic_strategies.proxy.frame.canonical import Canonical, canonicalize
from polyclinic_strategies.proxy.frame.frames import slabs_of, transform
from polyclinic_strategies.proxy.generator import IMAGE_MM, shrink
from polyclinic_strategies.proxy.protection import FINEST_MM, quantize

TELL_EVERY = 25  # scans between two lines of progress
Progress = Callable[[int, int, str], None]
_FORMAT = 2


@dataclass(frozen=True, eq=False)
class CanonicalCase:
    """One scan of one person.

    Attributes:
        subject: Name of the person.
        middle: (1, h, w, d), float16, with voxels of 2 mm.
        fine: (H, W, D), uint8, on the reference's grid; None if nobody needs it.
        labels: (H, W, D), uint8, on the same grid; None if they do not train a segmenter.
        shares: (classes - 1, h, w, d), float16: share of each foreground class in voxels of
            `IMAGE_MM`; None if the scan has no labels.
    """

    subject: str
    middle: Tensor
    fine: Tensor | None = None
    labels: Tensor | None = None
    shares: Tensor | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the person's name and the voxels."""
        return hashlib.sha256(self.subject.encode() + self.middle.numpy().tobytes()).hexdigest()

    @property
    def coarse(self) -> Tensor:
        """Image with voxels of `IMAGE_MM`, (1, h, w, d), float32."""
        return shrink(self.middle.float()[None], round(IMAGE_MM / FINEST_MM))[0]


def group(cases: Sequence[CanonicalCase]) -> list[list[CanonicalCase]]:
    """Return each subject's visits, without subjects that came once."""
    people: dict[str, list[CanonicalCase]] = {}
    for case in cases:
        people.setdefault(case.subject, []).append(case)
    return [visits for visits in people.values() if len(visits) > 1]


def check_people(cases: Sequence[Case], path: Path, split: str) -> None:
    """Check that recognizing people can be learned from these cases.

    Raises:
        DatasetInvalid: Fewer than two people came more than once.
    """
    visits = Counter(case.subject for case in cases if case.subject)
    if sum(number > 1 for number in visits.values()) < 2:
        raise DatasetInvalid(
            path,
            f"fewer than two people under '{split}' came more than once",
            'Name the subject of each case: {"image": "a_2.nii.gz", "label": ..., '
            '"subject": "a"}, with at least two visits of each.',
        )


def prepare_cases(
    cases: Sequence[Case],
    reference: Reference,
    kept: Path,
    classes: int,
    *,
    train: bool,
    on_progress: Progress | None = None,
) -> list[CanonicalCase]:
    """Bring scans into the canonical frame.

    Args:
        cases: From a dataset.json that names each case's subject; a case without one is a person of
            its own.
        reference: The frame.
        kept: Folder of results that are used again.
        classes: Number of classes of the labels.
        train: Whether a segmenter is trained with them, which needs labels.
        on_progress: Called with the number of cases done, their total, and the last one's name.

    Raises:
        ScanNotRecognized: The reference does not fit a scan.
        DataError: A faulty file, by its type.
    """
    prepared = []
    for number, case in enumerate(cases, start=1):
        path = kept / f"{_name(case, reference, train)}.safetensors"
        state = load_state(path)[0] if path.is_file() else None
        if state is None:
            state = _prepare(case, reference, classes, train)
            save_state(state, path, {})
        prepared.append(CanonicalCase(case.subject or case.name, **state))
        if on_progress is not None:
            on_progress(number, len(cases), case.name)
    return prepared


def prepare_splits(
    sites: Sequence[SiteDataset], config: Config, work: Path, say: Say, splits: Sequence[str]
) -> dict[str, list[CanonicalCase]]:
    """Return everybody's scans in the canonical frame, by split.

    Scans that train a segmenter have labels and the finest resolution.
    """
    prepared = {}
    for split in splits:
        cases = [_named(case, site) for site in sites for case in getattr(site, split)]
        prepared[split] = _prepare_split(cases, split, config, work, say)
    return prepared


def _named(case: Case, site: SiteDataset) -> Case:
    """Put the hospital before the subject: two hospitals may use one name for different people."""
    return replace(case, subject=f"{site.folder.name}/{case.subject}") if case.subject else case


def _prepare_split(
    cases: Sequence[Case], split: str, config: Config, work: Path, say: Say
) -> list[CanonicalCase]:
    folder = cases[0].image[0].parent.parent if cases else Path()
    check_people(cases, folder / "dataset.json", split)

    def tell(done: int, total: int, name: str) -> None:
        if done % TELL_EVERY == 0 or done == total:
            say(f"{split}: {done} of {total} scans brought to the reference ({name})")

    spacing_mm = float(config.model["spacing_mm"])
    return prepare_cases(
        cases,
        icbm152_reference(spacing_mm),
        work / "canonical",
        len(config.data.labels),
        train=split == "training",
        on_progress=tell,
    )


def label_shares(labels: Tensor, classes: int, times: int) -> Tensor:
    """Return the share of each foreground class in blocks of voxels.

    Args:
        labels: (H, W, D), uint8.
        classes: Number of classes, including the background.
        times: Edge of a block in voxels.

    Returns:
        (classes - 1, H / times, W / times, D / times), float16.
    """
    shares = [
        shrink((labels == number).float()[None, None], times)[0] for number in range(1, classes)
    ]
    return torch.cat(shares).half()


def _prepare(case: Case, reference: Reference, classes: int, train: bool) -> dict[str, Tensor]:
    canonical = canonicalize(read_image(case.image, 1, 3), reference)
    spacing = float(np.linalg.norm(reference.affine[:3, 0]))
    shape = [round(size * spacing / FINEST_MM) for size in reference.shape]
    state = {"middle": canonical.image(torch.zeros(1, 3, *shape))[None].half()}
    state["fine"] = torch.from_numpy(quantize(canonical.image()))
    if isinstance(case.label, Path):
        labels = _read_labels(case, canonical, reference, classes)
        state["shares"] = label_shares(labels, classes, round(IMAGE_MM / spacing))
        if train:
            state["labels"] = labels
    elif train:
        raise DatasetInvalid(
            case.image[0], "has no label map", "List it with one, or under 'test'."
        )
    return state


def _read_labels(case: Case, canonical: Canonical, reference: Reference, classes: int) -> Tensor:
    """Read a label map on the reference's grid: (H, W, D), uint8."""
    assert isinstance(case.label, Path)
    native = read_label(case.label, classes, values=case.label_values).as_tensor()[None].float()
    slabs = []
    for rows in slabs_of(reference.shape):
        points = identity((rows.stop - rows.start, *reference.shape[1:]))
        points[:, 0] += rows.start
        points = transform(canonical.to_native, points)
        slabs.append(sample(native, points, "nearest")[0, 0].to(torch.uint8))
    return torch.cat(slabs)


def _name(case: Case, reference: Reference, train: bool) -> str:
    """Return a name that depends on everything that determines the result."""
    files = [*case.image, *([case.label] if isinstance(case.label, Path) else [])]
    facts = [[str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size] for path in files]
    return json_digest([_FORMAT, reference.digest, train, facts])[:32]
