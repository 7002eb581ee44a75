"""What a hospital should know of its data folder before it joins: faults, and what is unusual."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.config.schemas import DataConfig
from polyclinic.config.tasks import KINDS
from polyclinic.errors import DataError, DatasetInvalid
from polyclinic.imaging.datasets import Case, SiteDataset
from polyclinic.imaging.headers import Header
from polyclinic.imaging.image_files import check_header, check_same_grid
from polyclinic.imaging.listing.values import Values
from polyclinic.system.durable import file_digest

NAMED = 3  # cases that a note names
FORMS_APART_VOXELS = 0.5

OnProgress = Callable[[int, int, str], None]
OnFault = Callable[[Case, DataError], None]


def check_dataset(
    dataset: SiteDataset,
    data: DataConfig | None = None,
    *,
    deep: bool = False,
    on_progress: OnProgress | None = None,
    on_fault: OnFault | None = None,
) -> list[str]:
    """Check every case: raise the first fault, return what is only unusual.

    Args:
        dataset: From `read_dataset`.
        data: What the federation expects; without it, only what `dataset.json` promises is checked.
        deep: Read the voxels too, not only the headers.
        on_progress: Called with (number of cases done, number of cases, name of the case).
        on_fault: Called with each faulty case and its fault; the check then goes on.

    Returns:
        Notes, one sentence each.

    Raises:
        DatasetInvalid: Labels, task or channels differ from those in `data`.
        DataError: The first faulty file, by its type, unless `on_fault` is given.
    """
    if data is not None:
        check_agreement(dataset, data)
    findings, cases = _Findings(dataset, data, deep), dataset.cases
    for number, case in enumerate(cases, start=1):
        try:
            findings.look_at(case)
        except DataError as error:
            if on_fault is None:
                raise
            on_fault(case, error)
        if on_progress is not None:
            on_progress(number, len(cases), case.name)
    return [*dataset.notes, *_check_overlap(dataset, deep), *findings.notes()]


def check_agreement(dataset: SiteDataset, data: DataConfig) -> None:
    """Check that labels, task and channels are those of the federation.

    Raises:
        DatasetInvalid: One of them differs.
    """
    path = dataset.folder / "dataset.json"
    if dataset.labels != data.labels:
        problem = f"its labels are {list(dataset.labels)}, the federation's are {list(data.labels)}"
        raise DatasetInvalid(path, problem, "Give both the same names in the same order.")
    if dataset.task != data.task:
        problem = f"its task is {dataset.task}, the federation's task is {data.task}"
        remedy = f"In {data.kind.title}, a case's label is {data.kind.labelled_by}."
        raise DatasetInvalid(path, problem, remedy)
    _check_ranges(dataset, data)
    if len(dataset.modality) != data.channels:
        problem = (
            f"'modality' names {len(dataset.modality)} channel(s), "
            f"the federation's images have {data.channels}"
        )
        raise DatasetInvalid(path, problem, "Name one modality for each channel.")
    if data.modality and dataset.modality != data.modality:
        problem = (
            f"its channels are {list(dataset.modality)}, the federation's are {list(data.modality)}"
        )
        raise DatasetInvalid(
            path,
            problem,
            "List the files of each case in the federation's order, and name them so.",
        )


def _check_ranges(dataset: SiteDataset, data: DataConfig) -> None:
    """Refuse numbers beyond the federation's range: another unit, or an error of writing."""
    ranges = list(zip(data.ranges[::2], data.ranges[1::2], strict=True))
    for case in dataset.cases if ranges else ():
        values = case.label if isinstance(case.label, tuple) else ()
        for name, value, (low, high) in zip(data.labels, values, ranges, strict=False):
            if value < low or value > high:
                raise DatasetInvalid(
                    dataset.folder / "dataset.json",
                    f"{case.name} has {name} {value:g}, beyond the federation's range of {low:g} "
                    f"to {high:g}",
                    "Correct it, or its unit; or ask for a wider data.ranges.",
                )


def check_grids(case: Case) -> None:
    """Check that an image's files and its label map lie on the same grid.

    Raises:
        ShapeMismatch: They do not.
    """
    _check_headers(case)


def _check_headers(case: Case) -> list[Header]:
    """Check headers and grids of a case; return the headers of the image's files."""
    paths = [*case.image, *([case.label] if isinstance(case.label, Path) else [])]
    headers = [check_header(path) for path in paths]
    check_same_grid(paths, headers)
    return headers[: len(case.image)]


@dataclass
class _Findings:
    """Notes about cases, gathered by what is unusual, so that a thousand cases make one line."""

    dataset: SiteDataset
    data: DataConfig | None
    deep: bool
    unusual: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    seen: set[int] = field(default_factory=set)  # classes
    maps: int = 0

    def look_at(self, case: Case) -> None:
        headers = _check_headers(case)
        self._check_channels(case, headers)
        for header in headers:
            if not header.oriented:
                self._note("the header does not say how the image lies in the patient", case)
            elif len(header.grids) == 2:
                first, second = header.grids
                if first.distance_mm(second) > FORMS_APART_VOXELS * min(header.spacing_mm):
                    self._note("sform and qform contradict each other; the sform counts", case)
        if isinstance(case.label, int):
            self.seen.add(case.label)
        elif isinstance(case.label, tuple):
            self._look_at_values(case.label)
        if self.deep:
            self._check_voxels(case)

    def notes(self) -> Iterator[str]:
        for what, names in self.unusual.items():
            shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
            yield f"{shown}: {what}" + (f" ({len(names)} cases)." if len(names) > 1 else ".")
        yield from self._check_classes()
        labelled = [case for case in self.dataset.test if case.label is not None]
        if self.dataset.validation and not labelled:
            yield "There are no test cases with labels: tests use the validation cases."

    def _note(self, what: str, case: Case) -> None:
        if case.name not in self.unusual[what]:
            self.unusual[what].append(case.name)

    def _check_channels(self, case: Case, headers: list[Header]) -> None:
        channels = self.data.channels if self.data else len(self.dataset.modality)
        found = sum(header.channels for header in headers)
        pictures = any(header.nifti is None for header in headers)  # they become grey or RGB
        if found != channels and not pictures:
            who = "the federation expects" if self.data else "'modality' names"
            problem = f"{case.image[0].name} has {found} channel(s), but {who} {channels}"
            raise DatasetInvalid(
                self.dataset.folder / "dataset.json",
                problem,
                "Correct 'modality', or list one file for each channel.",
            )

    def _check_voxels(self, case: Case) -> None:
        # it needs torch, which the other checks do without
        from polyclinic.imaging.volumes import read_image, read_label

        channels = self.data.channels if self.data else len(self.dataset.modality)
        dims = self.data.spatial_dims if self.data else 2
        zero = self.data.nan_as_zero if self.data else False
        image = read_image(case.image, channels, dims, nan_as_zero=zero)
        if float(image.min()) == float(image.max()):
            self._note("all voxels of the image are equal", case)
        if isinstance(case.label, Path):
            label = read_label(case.label, len(self.dataset.labels), values=case.label_values)
            classes = {int(number) for number in label.as_tensor().unique()}
            self.seen |= _shown_in(classes, case.regions)
            self.maps += 1
            if classes == {0}:
                self._note("the label map is empty", case)

    def _look_at_values(self, values: Values) -> None:
        """Note findings that there are, or numbers that are known."""
        regression = self.dataset.task == "regression"
        self.seen |= {
            place
            for place, value in enumerate(values)
            if (not math.isnan(value) if regression else value == 1)
        }

    def _check_classes(self) -> Iterator[str]:
        """Say which classes are declared and met nowhere, once all labels are known."""
        if KINDS[self.dataset.task].per_voxel and not self.maps:
            return
        missing = [name for n, name in enumerate(self.dataset.labels) if n not in self.seen]
        if missing:
            yield f"No case has {', '.join(missing)}, which 'labels' declares."


def _shown_in(classes: set[int], regions: Sequence[Sequence[int]]) -> set[int]:
    """Return the labels that a label map shows: its classes, or the regions that they are of."""
    if not regions:
        return classes
    return {place for place, region in enumerate(regions) if classes & set(region)}


def _check_overlap(dataset: SiteDataset, deep: bool) -> Iterator[str]:
    """Say which images, files of equal bytes, and patients stand in more than one list."""
    seen: dict[tuple[Path, ...], Case] = {}
    for case in dataset.cases:
        first = seen.setdefault(tuple(path.resolve() for path in case.image), case)
        if first is not case:
            yield f"{case.name}: listed under '{first.split}' and again under '{case.split}'."
    for first, case in _copies(list(seen.values())) if deep else ():
        yield (
            f"{case.name} ('{case.split}') is a copy, byte for byte, of {first.name} "
            f"('{first.split}')."
        )
    splits: dict[str, list[str]] = defaultdict(list)
    for case in dataset.cases:
        if case.subject and case.split not in splits[case.subject]:
            splits[case.subject].append(case.split)
    for subject, found in splits.items():
        if len(found) > 1:
            yield (
                f"Patient {subject} has cases under {' and '.join(map(repr, found))}: figures are "
                "better than on patients that are new."
            )


def _copies(cases: list[Case]) -> Iterator[tuple[Case, Case]]:
    """Yield pairs of cases whose first files hold the same bytes; sizes are compared first."""
    sizes = {case: _size(case.image[0]) for case in cases}
    shared = Counter(sizes.values())
    known: dict[str, Case] = {}
    for case in cases:
        if shared[sizes[case]] < 2:
            continue
        first = known.setdefault(_digest(case.image[0]), case)
        if first is not case:
            yield first, case


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:  # the check of the case has said so
        return str(path)
