"""Series: the files of one, without copies, and what of them is a volume."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from polyclinic.system.durable import file_digest
from polyclinic_client.dicom.errors import DicomUnreadable
from polyclinic_client.dicom.reading.elements import Malformed
from polyclinic_client.dicom.reading.geometry import Stack, stack_frames
from polyclinic_client.dicom.reading.instances import Instance
from polyclinic_client.dicom.reading.pixels import read_planes

LOCALIZERS = frozenset({"LOCALIZER", "SCOUT"})


@dataclass(frozen=True, eq=False)
class Series:
    """Files of one series.

    Attributes:
        instances: The files, copies left out.
        stack: How their frames make a volume; None if they do not.
        problem: Why they do not; empty if they do.
        copies: Number of files that were left out because another is the same object.
    """

    instances: tuple[Instance, ...]
    stack: Stack | None
    problem: str
    copies: int = 0

    @property
    def first(self) -> Instance:
        """Its first file, which says what all have in common."""
        return self.instances[0]

    @property
    def is_localizer(self) -> bool:
        """Whether it is a picture by which a scan was planned."""
        return not LOCALIZERS.isdisjoint(self.first.image_type)

    @property
    def is_derived(self) -> bool:
        """Whether it was computed of other images."""
        return self.first.image_type[:1] == ("DERIVED",)

    @property
    def token(self) -> str:
        """What tells this series, with exactly these files, from every other; not for others."""
        found = hashlib.sha256()
        for one in sorted(self.instances, key=lambda each: each.uid):
            found.update(f"{one.series} {one.uid} {one.size}\n".encode())
        return found.hexdigest()


def group_series(instances: Iterable[Instance]) -> list[Series]:
    """Put files of one series together, and find out which are volumes.

    Labels and other objects are series without a volume, whose problem is empty for labels.
    """
    found: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    for instance in instances:
        found[instance.study, instance.series].append(instance)
    return [make_series(files) for _, files in sorted(found.items())]


def make_series(files: Sequence[Instance]) -> Series:
    """Make a series of its files."""
    kept: dict[str, Instance] = {}
    clash = False
    for instance in sorted(files, key=lambda each: str(each.path)):
        first = kept.setdefault(instance.uid, instance)
        clash = clash or not (first is instance or _same_object(first, instance))
    instances = tuple(kept.values())
    copies = len(files) - len(instances)
    if clash:
        return Series(instances, None, "different files claim to be the same object", copies)
    kinds = {each.kind for each in instances}
    if kinds != {"image"}:
        problem = next((each.problem for each in instances if each.problem), "")
        if "image" in kinds:
            problem = "images and other objects share one series"
        return Series(instances, None, problem, copies)
    try:
        return Series(instances, _stack(instances), "", copies)
    except Malformed as error:
        return Series(instances, None, str(error), copies)


def _same_object(first: Instance, second: Instance) -> bool:
    """Tell whether two files of one identifier hold the same: bytes, or else places and voxels."""
    try:
        if file_digest(first.path) == file_digest(second.path):
            return True
        return (
            first.kind == second.kind == "image"
            and first.frames == second.frames
            and all(
                np.array_equal(one, other)
                for one, other in zip(
                    read_planes(first.path), read_planes(second.path), strict=True
                )
            )
        )
    except (OSError, ValueError, DicomUnreadable):
        return False


def _stack(instances: Sequence[Instance]) -> Stack:
    wrong = [each.problem for each in instances if each.problem]
    if wrong:
        share = "" if len(wrong) == len(instances) else f" ({len(wrong)} of {len(instances)} files)"
        raise Malformed(wrong[0] + share)
    first = instances[0]
    if any((each.rows, each.columns) != (first.rows, first.columns) for each in instances):
        raise Malformed("its images have different numbers of rows or columns")
    if len({each.patient for each in instances}) > 1:
        raise Malformed("its images are of different patients")
    if len({each.frame_of_reference for each in instances}) > 1:
        raise Malformed("its images do not share one coordinate system")
    frames = [frame for each in instances for frame in each.frames]
    return stack_frames(frames, first.rows, first.columns)
