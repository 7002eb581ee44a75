"""A hospital's cases, preprocessed once.

Method of preprocessing: orientation and voxel size of `conf/data`, its normalization, then its
intensity transforms, once for each case. What is drawn anew for every sample is in
`polyclinic.learning.loading.samples`.
"""

from collections.abc import Callable, Sequence
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
from polyclinic.learning.cases.foreground_voxels import find_foreground
from polyclinic.learning.cases.normalization import normalize


@dataclass(frozen=True, eq=False)
class Sample:
    """One case on the network's grid."""

    case: Case
    image: Tensor  # float32, CXYZ
    label: Tensor | int | None  # uint8, 1XYZ; or the class
    slices: Tensor  # int64: the axial slices worth drawing in a 2-D task
    # int16, (voxels, 3), of each foreground class that it has; empty if patches are not centred
    foreground: tuple[Tensor, ...] = ()

    @property
    def bytes(self) -> int:
        """Number of bytes in memory."""
        return self.image.nbytes + (self.label.nbytes if isinstance(self.label, Tensor) else 0)


class PreparedCases(Sequence[Sample]):
    """Preprocessed cases; as many as fit stay in memory, the others are read again when needed."""

    def __init__(
        self,
        cases: Sequence[Case],
        data: DataConfig,
        room_bytes: float,
        on_case: Callable[[], None],
    ) -> None:
        self.data, self.cases, self.bytes = data, tuple(cases), 0
        self._kept: dict[int, Sample] = {}
        self._last: tuple[int, Sample] | None = None
        for index, case in enumerate(self.cases):
            if self.bytes < room_bytes:
                sample = prepare_case(case, data)
                if self.bytes + sample.bytes <= room_bytes:
                    self._kept[index], self.bytes = sample, self.bytes + sample.bytes
                else:
                    room_bytes = self.bytes  # full: do not try the rest
            on_case()

    @property
    def complete(self) -> bool:
        """Whether every case is in memory."""
        return len(self._kept) == len(self.cases)

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
        if self._last is None or self._last[0] != index:
            self._last = (index, prepare_case(self.cases[index], self.data))
        return self._last[1]


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
    label: Tensor | int | None = None
    worth = image.flatten(1, 2).amax((0, 1)) > image.flatten(1, 2).amin((0, 1))
    if isinstance(case.label, Path):
        drawn = read_label(case.label, len(data.labels), values=case.label_values)
        label = resample(drawn.as_tensor().to(torch.uint8), native, grid, nearest=True)
        worth = label.flatten(0, 2).any(0)
    else:
        label = case.label
    slices = worth.nonzero().flatten()
    lit = label if isinstance(label, Tensor) and data.foreground_share > 0 else None
    return Sample(
        case,
        image,
        label,
        slices if len(slices) else torch.arange(image.shape[-1]),
        () if lit is None else find_foreground(lit, len(data.labels)),
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
    dataset: SiteDataset, data: DataConfig, on_progress: Callable[[int, int], None] | None = None
) -> PreparedSite:
    """Preprocess the training and validation cases, once for all rounds; read the test cases.

    Up to `data.cache_gb` of them stay in memory. A test case that is damaged is met here, and not
    when all rounds are done.

    Args:
        dataset: From `read_dataset`.
        data: What the network wants to see.
        on_progress: Called with (cases done, cases).

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

    room = data.cache_gb * 2**30
    training = PreparedCases(dataset.training, data, room, step)
    validation = PreparedCases(dataset.validation, data, room - training.bytes, step)
    for case in tests:
        check_case(case, data)
        step()
    return PreparedSite(dataset, data, training, validation)
