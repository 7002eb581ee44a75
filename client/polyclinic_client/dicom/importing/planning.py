"""What an import would make: cases of series and labels, and what is left out and why."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from polyclinic_client.dicom.importing.site_map import SiteMap
from polyclinic_client.dicom.labels.maps import wanted_number
from polyclinic_client.dicom.mapping import Channel, Mapping
from polyclinic_client.dicom.reading.finding import Findings
from polyclinic_client.dicom.reading.instances import Instance
from polyclinic_client.dicom.reading.series import Series

STUDY_DIGITS = 8


@dataclass(frozen=True, eq=False)
class PlannedCase:
    """A case of a study.

    Attributes:
        name: Of its files.
        patient: Name of its patient.
        channels: A series for each channel.
        labels: SEG and RTSTRUCT that label it.
        base: Number of the channel on whose grid all others and the label map lie.
        key: What it is made of, and how: a keyed hash.
    """

    name: str
    patient: str
    channels: tuple[Series, ...]
    labels: tuple[Instance, ...]
    base: int
    key: str


@dataclass(frozen=True)
class LeftOut:
    """Something that is not imported: why, and what, which only the site's own list tells."""

    why: str
    what: str


@dataclass(eq=False)
class ImportPlan:
    """What an import would make.

    Attributes:
        cases: In the order of their names.
        left_out: Series, files, labels and studies.
        patients: Number found.
        studies: Number found.
        series: Number found.
    """

    cases: list[PlannedCase] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    patients: int = 0
    studies: int = 0
    series: int = 0

    def reasons(self) -> dict[str, int]:
        """Return every reason with its count, the most frequent first."""
        return dict(Counter(each.why for each in self.left_out).most_common())


def plan_import(findings: Findings, mapping: Mapping, site: SiteMap) -> ImportPlan:
    """Decide what becomes what.

    Args:
        findings: What lies in the folder.
        mapping: The site's series.yaml.
        site: Gives patients and studies their names.
    """
    plan = ImportPlan(series=len(findings.series))
    plan.left_out += [LeftOut(f"damaged file: {why}", str(path)) for path, why in findings.damaged]
    plan.left_out += [
        LeftOut(f"{kind} archive, which is not opened: unpack it", str(path))
        for path, kind in findings.archives
    ]
    studies: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for series in findings.series:
        studies[series.first.patient, series.first.study].append(series)
    plan.studies = len(studies)
    for (whose, study), found in sorted(studies.items()):
        patient = site.name_patient(whose, study)
        planner = _Study(found, mapping, plan)
        planner.plan(patient, f"{patient}-{site.name('study', study)[:STUDY_DIGITS]}", site)
    plan.patients = len({site.name_patient(*key) for key in studies})
    plan.cases.sort(key=lambda case: case.name)
    return plan


class _Study:
    """Plans one study."""

    def __init__(self, found: Sequence[Series], mapping: Mapping, plan: ImportPlan) -> None:
        self.found, self.mapping, self.target = found, mapping, plan

    def plan(self, patient: str, name: str, site: SiteMap) -> None:
        usable = [each for each in self.found if self._usable(each)]
        chosen: list[Series] = []
        for channel in self.mapping.channels:
            fitting = self._fitting(channel, [one for one in usable if one not in chosen])
            if len(fitting) != 1:
                why = "no series fits" if not fitting else f"{len(fitting)} series fit"
                self._leave(f"study in which {why} channel {channel.name}", self.found[0])
                return
            chosen += fitting
        for series in usable:
            if series not in chosen:
                self._leave("series that no channel takes", series)
        labels = list(self._labels(chosen))
        if not labels and not self.mapping.unlabelled:
            self._leave("study without labels", self.found[0])
            return
        base = next(
            (
                number
                for number, series in enumerate(chosen)
                if any(series.first.series in one.references for one in labels)
            ),
            0,
        )
        parts = [self.mapping.model_dump_json(include={"channels", "labels"}), str(base)]
        parts += [each.token for each in chosen]
        parts += [f"{each.uid} {each.size}" for each in labels]
        key = site.name("case", "\n".join(parts))
        case = PlannedCase(name, patient, tuple(chosen), tuple(labels), base, key)
        self.target.cases.append(case)

    def _usable(self, series: Series) -> bool:
        """Tell whether a series may become a channel; note why not."""
        kind = series.first.kind
        if kind in ("segmentation", "contours"):
            return False  # labels are looked at when the channels are known
        why = ""
        if kind == "image" and series.is_localizer:
            why = "localizer"
        elif series.stack is None:
            why = f"series: {series.problem or 'it holds no images'}"
        elif series.is_derived and not self.mapping.derived:
            why = "derived series (computed of others)"
        if why:
            self._leave(why, series)
        elif series.copies:
            self._leave("file that is a copy of another", series, series.copies)
        return not why

    def _fitting(self, channel: Channel, usable: Sequence[Series]) -> list[Series]:
        """Return the series that a channel takes: by its first match that any fits."""
        for match in channel.match:
            fitting = [each for each in usable if match.fits(each.first)]
            if len(fitting) > 1 and self.mapping.several == "most slices":
                return [max(fitting, key=_slices)] if _one_largest(fitting) else fitting
            if fitting:
                return fitting
        return []

    def _labels(self, chosen: Sequence[Series]) -> Iterator[Instance]:
        """Yield the SEG and RTSTRUCT that label the chosen series; note why others do not."""
        series = {each.first.series for each in chosen}
        places = {each.first.frame_of_reference for each in chosen} - {""}
        for found in self.found:
            for one in found.instances if found.first.kind in ("segmentation", "contours") else ():
                if not any(
                    wanted_number(self.mapping.labels, name) is not None for _, name in one.names
                ):
                    self._leave("labels that series.yaml does not name", found)
                elif one.references & series or (
                    not one.references and one.frame_of_reference in places
                ):
                    yield one
                else:
                    self._leave("labels of a series that is not imported", found)

    def _leave(self, why: str, series: Series, times: int = 1) -> None:
        what = f"{series.first.path.parent} series {series.first.series}"
        self.target.left_out += [LeftOut(why, what)] * times


def _slices(series: Series) -> int:
    return series.stack.grid.shape[2] if series.stack is not None else 0


def _one_largest(fitting: Sequence[Series]) -> bool:
    counts = sorted(map(_slices, fitting))
    return counts[-1] > counts[-2]
