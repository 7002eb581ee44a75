"""A hospital's cases, preprocessed once.

Method of preprocessing: orientation and voxel size of `conf/data`, its normalization, then its
intensity transforms, once for each case. What is drawn anew for every sample is in
`polyclinic.learning.loading.samples`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.dataset_checks import check_agreement, check_grids
from polyclinic.imaging.datasets import Case, SiteDataset
from polyclinic.imaging.grids import network_grid, resample
from polyclinic.imaging.headers import Grid
from polyclinic.imaging.volumes import read_image, read_label
from polyclinic.learning.cases.disk_cache import DiskCache, case_key
from polyclinic.learning.cases.normalization import normalize
from polyclinic.learning.tasks.registry import task_of
from polyclinic.learning.tasks.task import Label

BESIDE_DISK = 2**29  # bytes of prepared cases that stay in memory where there is a disk


@dataclass(frozen=True, eq=False)
class Sample:
    """One case on the network's grid."""

    case: Case
    image: Tensor  # float32, CXYZ
    label: Label | None
    slices: Tensor  # int64: the axial slices worth drawing in a 2-D task
    # int16, (voxels, 3), of each foreground class that it has; empty if patches are not centred
    foreground: tuple[Tensor, ...] = ()

    @property
    def bytes(self) -> int:
        """Number of bytes in memory."""
        return self.image.nbytes + (self.label.nbytes if isinstance(self.label, Tensor) else 0)


class PreparedCases(Sequence[Sample]):
    """Preprocessed cases; as many as fit stay in memory, the others on the disk.

    What finds no room there either is read again when it is needed.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        data: DataConfig,
        room_bytes: float,
        on_case: Callable[[], None],
        disk: DiskCache | None = None,
    ) -> None:
        self.data, self.cases, self.bytes = data, tuple(cases), 0
        self._disk = disk
        self._keys: dict[int, str] = {}  # of the cases on the disk
        self._kept: dict[int, Sample] = {}
        self._last: tuple[int, Sample] | None = None
        for index, case in enumerate(self.cases):
            if self.bytes < room_bytes:
                sample = prepare_case(case, data)
                if self.bytes + sample.bytes <= room_bytes:
                    self._kept[index], self.bytes = sample, self.bytes + sample.bytes
                else:
                    room_bytes = self.bytes  # full: do not try the rest
                    self._put_aside(index, sample)
            else:
                self._put_aside(index)
            on_case()

    @property
    def complete(self) -> bool:
        """Whether no case must be prepared again."""
        return len(self._kept) + len(self._keys) == len(self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index in self._kept:
            return self._kept[index]
        if self._disk is not None and index in self._keys:
            found = self._map(index, self._disk)
            if found is not None:
                return found
        if self._last is None or self._last[0] != index:
            self._last = (index, prepare_case(self.cases[index], self.data))
        return self._last[1]

    def _put_aside(self, index: int, sample: Sample | None = None) -> None:
        """Keep a case on the disk, if there is a disk and room, and it is not there yet."""
        if self._disk is None:
            return
        case = self.cases[index]
        self._keys[index] = _key(case, self.data)
        if self._map(index, self._disk) is not None:
            return
        tensors = _to_tensors(sample or prepare_case(case, self.data), self.data)
        if not self._disk.save(self._keys[index], tensors):
            del self._keys[index]

    def _map(self, index: int, disk: DiskCache) -> Sample | None:
        """Return a case of the disk; None if another process removed it, or it is damaged."""
        tensors = disk.load(self._keys[index])
        return None if tensors is None else _from_tensors(tensors, self.cases[index], self.data)


@dataclass(frozen=True, eq=False)
class PreparedSite:
    """A hospital's cases, preprocessed once in a process and used in every round."""

    dataset: SiteDataset
    data: DataConfig
    training: PreparedCases
    validation: PreparedCases


def prepare_image(image: Sequence[Path], data: DataConfig) -> tuple[Tensor, Grid, Grid]:
    """Read one image and bring it onto the network's grid.

    Returns:
        float32 CXYZ after normalization and intensity transforms, its grid, and the file's own
        grid.

    Raises:
        DataError: The typed fault of the file.
    """
    raw = read_image(image, data.channels, data.spatial_dims, nan_as_zero=data.nan_as_zero)
    x, y, z = raw.shape[1:]
    native = Grid((x, y, z), raw.affine.numpy())
    grid = network_grid(native, data)
    volume = normalize(resample(raw.as_tensor(), native, grid), data)
    for part in data.intensity:
        volume = instantiate(part)({"image": volume})["image"]
    return (
        torch.as_tensor(volume.as_tensor() if hasattr(volume, "as_tensor") else volume).float(),
        grid,
        native,
    )


def prepare_case(case: Case, data: DataConfig) -> Sample:
    """Bring one case onto the network's grid, ready to be cropped.

    Raises:
        DataError: The typed fault of a file.
    """
    check_grids(case)
    image, grid, native = prepare_image(case.image, data)
    task, label = task_of(data), None
    if case.label is not None:
        label = task.prepare_label(case, data, native, grid)
    if isinstance(label, Tensor):
        worth = label.flatten(0, 2).any(0)
    else:
        worth = image.flatten(1, 2).amax((0, 1)) > image.flatten(1, 2).amin((0, 1))
    slices = worth.nonzero().flatten()
    voxels: tuple[Tensor, ...] = ()
    if label is not None and data.foreground_share > 0:
        voxels = task.find_foreground(label, data)
    return Sample(
        case,
        image,
        label,
        slices if len(slices) else torch.arange(image.shape[-1]),
        voxels,
    )


def check_case(case: Case, data: DataConfig) -> None:
    """Read all files of a case, and keep nothing.

    Raises:
        DataError: The typed fault of a file.
    """
    check_grids(case)
    read_image(case.image, data.channels, data.spatial_dims, nan_as_zero=data.nan_as_zero)
    if isinstance(case.label, Path):
        read_label(case.label, len(data.labels), values=case.label_values)


def prepare(
    dataset: SiteDataset,
    data: DataConfig,
    on_progress: Callable[[int, int], None] | None = None,
    disk: DiskCache | None = None,
) -> PreparedSite:
    """Preprocess the training and validation cases, once for all rounds; read the test cases.

    Up to `data.cache_gb` of them stay in memory; with a disk at most `BESIDE_DISK`, and the others
    lie there. A test case that is damaged is met here, and not
    when all rounds are done.

    Args:
        dataset: From `read_dataset`.
        data: What the network wants to see.
        on_progress: Called with (cases done, cases).
        disk: Where cases lie that do not stay in memory; None: they are read again in each pass.

    Raises:
        DatasetInvalid: The data set does not fit `data`.
        DataError: The typed fault of the first faulty file.
    """
    check_agreement(dataset, data)
    tests = [case for case in dataset.test if case.label is not None]
    total, done = len(dataset.training) + len(dataset.validation) + len(tests), 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    room = data.cache_gb * 2**30 if disk is None else min(data.cache_gb * 2**30, BESIDE_DISK)
    training = PreparedCases(dataset.training, data, room, step, disk)
    validation = PreparedCases(dataset.validation, data, room - training.bytes, step, disk)
    for case in tests:
        check_case(case, data)
        step()
    return PreparedSite(dataset, data, training, validation)


def _key(case: Case, data: DataConfig) -> str:
    label = (case.label,) if isinstance(case.label, Path) else ()
    return case_key((*case.image, *label), (case.label_values, case.regions), data)


def _to_tensors(sample: Sample, data: DataConfig) -> dict[str, Tensor]:
    """Return what is kept of a sample; in a 2-D task slice by slice, as it is read."""
    tensors = {"image": sample.image, "slices": sample.slices}
    if isinstance(sample.label, Tensor):
        tensors["label"] = sample.label
    if data.spatial_dims == 2:
        tensors |= {key: tensors[key].movedim(3, 0) for key in ("image", "label") if key in tensors}
    if sample.foreground:
        tensors["voxels"] = torch.cat(sample.foreground)
        tensors["counts"] = torch.tensor([len(each) for each in sample.foreground])
    return tensors


def _from_tensors(tensors: Mapping[str, Tensor], case: Case, data: DataConfig) -> Sample | None:
    """Make a sample of what was kept; None if it is not what `_to_tensors` makes."""
    image, label = tensors.get("image"), tensors.get("label")
    lit = isinstance(case.label, Path)
    if image is None or image.ndim != 4 or "slices" not in tensors or lit != (label is not None):
        return None
    if data.spatial_dims == 2:
        image = image.movedim(0, 3)
        label = label.movedim(0, 3) if label is not None else None
    channels = len(case.regions) or 1
    if label is not None and label.shape != (channels, *image.shape[1:]):
        return None
    voxels = tensors.get("voxels", torch.zeros(0, 3))
    counts = tensors.get("counts", torch.zeros(0)).tolist()
    if sum(counts) != len(voxels):
        return None
    known = case.label if label is None else label
    assert not isinstance(known, Path)
    return Sample(case, image, known, tensors["slices"], tuple(torch.split(voxels, counts)))
