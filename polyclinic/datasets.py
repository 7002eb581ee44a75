"""A hospital's folder: `dataset.json`, as in the Medical Segmentation Decathlon -> checked cases -> samples.

    {"name": "...", "description": "...", "modality": {"0": "T1"}, "labels": {"0": "background", "1": "tumour"},
     "training":   [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}],
     "validation": [{"image": ["images/b_T1.nii.gz", "images/b_T2.nii.gz"], "label": "labels/b.nii.gz"}],
     "test":       [{"image": "images/c.nii.gz", "label": "labels/c.nii.gz"}, "images/d.nii.gz"]}

A list of images is one file for each channel; in a classification `label` is the number of the class. `test` may be
missing, or be without labels: a test then takes the validation cases instead (`evaluation_cases`).

Method of preprocessing: orientation and voxel size of `conf/data`, then its intensity transforms, once for each case;
a crop or slice and the augmentation are drawn anew for every sample.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Compose
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from polyclinic.config import DataConfig, TrainingConfig, instantiate
from polyclinic.errors import ConfigError, DatasetInvalid, FileMissing, ShapeMismatch
from polyclinic.volumes import LIMIT_BYTES, Grid, check_header, read_image, read_label, resample, spacing_of

Split = Literal["training", "validation", "test"]
SPLITS: tuple[Split, ...] = ("training", "validation", "test")
MAX_JSON_BYTES = 64 * 2**20
FOREGROUND_SHARE = 0.75  # of the slices drawn for a 2-D segmentation


@dataclass(frozen=True)
class Case:
    """One patient's image, one file or one for each channel, and what is known about it."""

    name: str
    image: tuple[Path, ...]
    label: Path | int | None
    split: Split


@dataclass(frozen=True)
class SiteDataset:
    """What `dataset.json` says."""

    folder: Path
    name: str
    modality: tuple[str, ...]
    labels: tuple[str, ...]
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]

    @property
    def cases(self) -> tuple[Case, ...]:
        """All of them."""
        return self.training + self.validation + self.test

    @property
    def task(self) -> Literal["segmentation", "classification"]:
        """As the training cases' labels say."""
        return "classification" if isinstance(self.training[0].label, int) else "segmentation"


@dataclass(frozen=True, eq=False)
class Sample:
    """One case on the network's grid."""

    case: Case
    image: Tensor  # float32, CXYZ
    label: Tensor | int | None  # uint8, 1XYZ; or the class
    slices: Tensor  # int64: the axial slices worth drawing in a 2-D task

    @property
    def bytes(self) -> int:
        """In memory."""
        return self.image.nbytes + (self.label.nbytes if isinstance(self.label, Tensor) else 0)


class PreparedCases(Sequence[Sample]):
    """Preprocessed cases; as many as fit are kept in memory, the others are read again when asked for."""

    def __init__(self, cases: Sequence[Case], data: DataConfig, room_bytes: float, on_case: Callable[[], None]) -> None:
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


def read_dataset(folder: Path) -> SiteDataset:
    """Read and check `dataset.json`, and that the files it names exist.

    Raises:
        DatasetInvalid: It is missing, is not JSON, or lacks something.
        FileMissing: A file that it names does not exist.
    """
    path = folder / "dataset.json"
    tree = _read_json(path)
    labels = _read_names(path, tree, "labels")
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise DatasetInvalid(path, f"'labels' are {list(labels)}", "Name at least two classes, each differently.")
    splits = {split: tuple(_read_cases(path, tree, split, len(labels))) for split in SPLITS}
    for split in ("training", "validation"):
        if not splits[split]:
            raise DatasetInvalid(path, f"'{split}' is empty or missing", "List at least one case there.")
    dataset = SiteDataset(
        folder, str(tree.get("name") or folder.name), _read_names(path, tree, "modality"), labels, **splits
    )
    if len({isinstance(case.label, int) for case in dataset.cases if case.label is not None}) > 1:
        raise DatasetInvalid(
            path, "some labels are files and some are numbers", "Use one kind: files to segment, numbers to classify."
        )
    names = [case.name for case in dataset.cases]
    if len(set(names)) < len(names):
        splits = {split: tuple(_qualify(case, folder) for case in cases) for split, cases in splits.items()}
        return SiteDataset(folder, dataset.name, dataset.modality, labels, **splits)
    return dataset


def _read_json(path: Path) -> Mapping[str, Any]:
    remedy = "Write it as the documentation on data sets describes."
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DatasetInvalid(path, f"is larger than {MAX_JSON_BYTES >> 20} MiB", remedy)
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetInvalid(path, "there is no such file", "Point to the folder that holds dataset.json.") from error
    except OSError as error:
        raise DatasetInvalid(
            path, f"cannot be read ({error.strerror})", "Check the path and its permissions."
        ) from error
    except json.JSONDecodeError as error:
        raise DatasetInvalid(path, f"is not JSON: line {error.lineno}, {error.msg}", "Correct it.") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DatasetInvalid(path, "is not JSON in UTF-8", remedy) from error
    if not isinstance(tree, dict):
        raise DatasetInvalid(path, "is JSON, but not an object with keys", remedy)
    return tree


def _read_names(path: Path, tree: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The names of {"0": name, "1": name, ...}, in order."""
    remedy = f'Write "{key}": {{"0": "name", "1": "name"}}, numbered from 0 without gaps.'
    names = tree.get(key)
    if not isinstance(names, dict) or not names:
        raise DatasetInvalid(path, f"'{key}' is missing or is not a table of names", remedy)
    wanted = [str(number) for number in range(len(names))]
    if set(names) != set(wanted):
        raise DatasetInvalid(path, f"'{key}' has the keys {', '.join(map(str, names))}", remedy)
    if not all(isinstance(name, str) and name for name in names.values()):
        raise DatasetInvalid(path, f"'{key}' holds something that is not a name", remedy)
    return tuple(names[number] for number in wanted)


def _read_cases(path: Path, tree: Mapping[str, Any], split: Split, classes: int) -> Iterator[Case]:
    entries = tree.get(split, [])
    if not isinstance(entries, list):
        raise DatasetInvalid(path, f"'{split}' is not a list", 'Write a list of {"image": ..., "label": ...}.')
    for number, entry in enumerate(entries):
        where = f"'{split}'[{number}]"
        table = {"image": entry} if isinstance(entry, str) and split == "test" else entry
        if not isinstance(table, dict) or "image" not in table:
            raise DatasetInvalid(path, f"{where} has no 'image'", 'Write {"image": "file", "label": "file"}.')
        files = table["image"] if isinstance(table["image"], list) else [table["image"]]
        image = tuple(_find(path, name, split, where) for name in files)
        label = table.get("label")
        if not image or (label is None and split != "test"):
            raise DatasetInvalid(
                path, f"{where} has no {'label' if image else 'image'}", "Add it, or remove the entry."
            )
        if isinstance(label, int) and not isinstance(label, bool):
            if not 0 <= label < classes:
                raise DatasetInvalid(path, f"{where} has label {label}", f"'labels' declares 0 to {classes - 1}.")
        elif label is not None:
            label = _find(path, label, split, where)
        yield Case(_stem(image[0]), image, label, split)


def _find(path: Path, name: object, split: str, where: str) -> Path:
    """A file that an entry names, relative to the folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise DatasetInvalid(path, f"{where} names a file as {name!r}", "Write its path, relative to dataset.json.")
    found = path.parent / name
    try:
        exists = found.is_file()
    except OSError as error:
        raise DatasetInvalid(
            path, f"{where} names a file that cannot be reached ({error.strerror})", "Correct the path."
        ) from error
    if not exists:
        raise FileMissing(found, split)
    return found


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _qualify(case: Case, folder: Path) -> Case:
    """A name from the whole path, where file names repeat."""
    path = case.image[0]
    inside = path.relative_to(folder) if path.is_relative_to(folder) else path
    name = "_".join((*(piece for piece in inside.parent.parts if piece not in ("..", "/")), _stem(path)))
    return Case(name, case.image, case.label, case.split)


def evaluation_cases(dataset: SiteDataset, split: Split = "test") -> tuple[Case, ...]:
    """The labelled cases of a split; where it has none, those of the validation (each case says its split)."""
    cases = {"training": dataset.training, "validation": dataset.validation, "test": dataset.test}[split]
    labelled = tuple(case for case in cases if case.label is not None)
    return labelled or dataset.validation


def check_dataset(
    dataset: SiteDataset,
    data: DataConfig | None = None,
    *,
    deep: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[str]:
    """Check every case; the first real fault is raised, what is merely odd is returned.

    Args:
        dataset: From `read_dataset`.
        data: What the federation expects; without it only the hospital's own promises are checked.
        deep: Read the voxels too, not only the headers.
        on_progress: Called with (cases done, cases, name of the case).

    Returns:
        Warnings, one sentence each.

    Raises:
        DatasetInvalid: Labels, task or channels other than `data` has them.
        DataError: The typed fault of the first faulty file.
    """
    if data is not None:
        _check_agreement(dataset, data)
    warnings = _check_overlap(dataset)
    if not any(case.label is not None for case in dataset.test):
        warnings.append("There are no test cases with labels: tests use the validation cases.")
    for number, case in enumerate(dataset.cases, start=1):
        warnings += _check_case(dataset, case, data, deep)
        if on_progress is not None:
            on_progress(number, len(dataset.cases), case.name)
    return warnings


def _check_agreement(dataset: SiteDataset, data: DataConfig) -> None:
    path = dataset.folder / "dataset.json"
    if dataset.labels != data.labels:
        problem = f"its labels are {list(dataset.labels)}, the federation's are {list(data.labels)}"
        raise DatasetInvalid(path, problem, "Give both the same names in the same order.")
    if dataset.task != data.task:
        problem = f"its labels make a {dataset.task}, the federation's task is {data.task}"
        raise DatasetInvalid(path, problem, "Use files as labels to segment, numbers to classify.")
    if len(dataset.modality) != data.channels:
        problem = f"'modality' names {len(dataset.modality)} channel(s), the federation's images have {data.channels}"
        raise DatasetInvalid(path, problem, "Name one modality for each channel.")


def _check_overlap(dataset: SiteDataset) -> list[str]:
    seen: dict[tuple[Path, ...], Case] = {}
    warnings = []
    for case in dataset.cases:
        first = seen.setdefault(tuple(path.resolve() for path in case.image), case)
        if first is not case:
            warnings.append(f"{case.name}: listed under '{first.split}' and again under '{case.split}'.")
    return warnings


def _check_case(dataset: SiteDataset, case: Case, data: DataConfig | None, deep: bool) -> list[str]:
    headers = [check_header(path) for path in case.image]
    channels = data.channels if data else len(dataset.modality)
    dims = data.spatial_dims if data else 2
    found = sum(header.channels for header in headers)
    if found != channels and all(header.nifti is not None for header in headers):  # pictures become grey or RGB
        who = "the federation expects" if data else "'modality' names"
        problem = f"{case.image[0].name} has {found} channel(s), but {who} {channels}"
        raise DatasetInvalid(
            dataset.folder / "dataset.json", problem, "Correct 'modality', or list one file for each channel."
        )
    _check_grids(case)
    if not deep:
        return []
    warnings = []
    image = read_image(case.image, channels, dims)
    if float(image.min()) == float(image.max()):
        warnings.append(f"{case.name}: all voxels of the image are equal.")
    if isinstance(case.label, Path) and not bool(read_label(case.label, len(dataset.labels)).any()):
        warnings.append(f"{case.name}: the label map is empty.")
    return warnings


def _check_grids(case: Case) -> None:
    """Image and label map on the same voxels."""
    if not isinstance(case.label, Path):
        return
    image, label = check_header(case.image[0]), check_header(case.label)
    mixed = (label.nifti is None) != (image.nifti is None)  # a picture's affine means nothing to a NIfTI
    if not (label.grid.shape == image.grid.shape if mixed else label.grid.matches(image.grid)):
        raise ShapeMismatch(case.image[0], str(image.grid), case.label, str(label.grid))


def network_grid(native: Grid, data: DataConfig) -> Grid:
    """The grid on which the network sees an image: `data.orientation`, then `data.spacing_mm` about the same centre.

    Without a spacing the image is resized to the patch. A single slice keeps its axes and stays one.

    Raises:
        ConfigError: An orientation that is none, or a spacing that would make volumes beyond the limit.
    """
    single = data.spatial_dims == 2 and native.shape[2] == 1
    codes = _three_codes(data.orientation)
    turn = nib.orientations.ornt_transform(nib.io_orientation(native.affine), nib.orientations.axcodes2ornt(codes))
    if single and turn[2, 0] != 2:
        turn = np.array([[0, 1], [1, 1], [2, 1]])
    order = np.argsort(turn[:, 0])
    sizes = np.array(native.shape)[order]
    affine = native.affine @ nib.orientations.inv_ornt_aff(turn, native.shape)
    if data.spacing_mm is None:
        wanted = np.array((*data.patch, sizes[2])[:3])
        scale = sizes / wanted
    else:
        scale = np.array(data.spacing_mm) / spacing_of(affine)
        if single:
            scale[2] = 1.0
        wanted = np.maximum(1, np.round(sizes / scale))
    if float(np.prod(wanted)) * data.channels * 4 > LIMIT_BYTES:
        raise ConfigError(
            f"data.spacing_mm={data.spacing_mm}: an image would have {'x'.join(f'{n:g}' for n in wanted)} voxels."
        )
    shift = np.eye(4)
    shift[:3, :3] = np.diag(scale)
    shift[:3, 3] = (sizes - 1 - (wanted - 1) * scale) / 2  # both grids have their centre in common
    x, y, z = (int(size) for size in wanted)
    return Grid((x, y, z), affine @ shift)


def _three_codes(orientation: str) -> str:
    """A third letter where only two are given."""
    groups = ("RL", "AP", "SI")
    missing = [group for group in groups if not set(group) & set(orientation)]
    codes = orientation + (missing[0][0] if len(orientation) == 2 and missing else "")
    if len(codes) != 3 or any(len(set(group) & set(codes)) != 1 for group in groups):
        raise ConfigError(f"data.orientation={orientation}: one of R and L, one of A and P, one of S and I.")
    return codes


def prepare_image(image: Sequence[Path], data: DataConfig) -> tuple[Tensor, Grid, Grid]:
    """Read one image and bring it onto the network's grid.

    Returns:
        float32 CXYZ after the intensity transforms, its grid, and the file's own grid.

    Raises:
        DataError: The typed fault of the file.
    """
    raw = read_image(image, data.channels, data.spatial_dims)
    x, y, z = raw.shape[1:]
    native = Grid((x, y, z), raw.affine.numpy())
    grid = network_grid(native, data)
    volume = resample(raw.as_tensor(), native, grid)
    for part in data.intensity:
        volume = instantiate(part)({"image": volume})["image"]
    return torch.as_tensor(volume.as_tensor() if hasattr(volume, "as_tensor") else volume).float(), grid, native


def prepare_case(case: Case, data: DataConfig) -> Sample:
    """One case on the network's grid, ready to be cropped.

    Raises:
        DataError: The typed fault of a file.
    """
    _check_grids(case)
    image, grid, native = prepare_image(case.image, data)
    label: Tensor | int | None = None
    worth = image.flatten(1, 2).amax((0, 1)) > image.flatten(1, 2).amin((0, 1))
    if isinstance(case.label, Path):
        drawn = read_label(case.label, len(data.labels)).as_tensor().to(torch.uint8)
        label = resample(drawn, native, grid, nearest=True)
        worth = label.flatten(0, 2).any(0)
    else:
        label = case.label
    slices = worth.nonzero().flatten()
    return Sample(case, image, label, slices if len(slices) else torch.arange(image.shape[-1]))


def prepare(
    dataset: SiteDataset, data: DataConfig, on_progress: Callable[[int, int], None] | None = None
) -> PreparedSite:
    """Preprocess the training and validation cases, once for all rounds; up to `data.cache_gb` stay in memory.

    Args:
        dataset: From `read_dataset`.
        data: What the network wants to see.
        on_progress: Called with (cases done, cases).

    Raises:
        DatasetInvalid: The data set does not fit `data`.
        DataError: The typed fault of the first faulty file.
    """
    _check_agreement(dataset, data)
    total, done = len(dataset.training) + len(dataset.validation), 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    room = data.cache_gb * 2**30
    training = PreparedCases(dataset.training, data, room, step)
    validation = PreparedCases(dataset.validation, data, room - training.bytes, step)
    return PreparedSite(dataset, data, training, validation)


def training_loader(prepared: PreparedSite, training: TrainingConfig, seed: int) -> DataLoader[dict[str, Tensor]]:
    """Batches of random samples: `data.samples_per_case` of each training case in one pass.

    Args:
        prepared: From `prepare`.
        training: For the batch size.
        seed: Equal seeds draw equal samples in equal order.

    Returns:
        Batches of `image` (float32, BCHWD, or BCHW in 2-D) and `label` (int64, B1HWD or B1HW; classes: B).
    """
    generator = Generator().manual_seed(seed)
    samples = TrainingSamples(prepared.training, prepared.data, seed)
    order = _CaseOrder(prepared.training, prepared.data.samples_per_case, generator)
    return DataLoader(samples, batch_size=training.batch_size, sampler=order, num_workers=0, generator=generator)


class _CaseOrder(Sampler[int]):
    """All samples in random order; those of one case in a row if cases must be read again from the disk."""

    def __init__(self, cases: PreparedCases, each: int, generator: Generator) -> None:
        self.cases, self.each, self.generator = cases, each, generator

    def __len__(self) -> int:
        return len(self.cases) * self.each

    def __iter__(self) -> Iterator[int]:
        if self.cases.complete:
            yield from torch.randperm(len(self), generator=self.generator).tolist()
            return
        for case in torch.randperm(len(self.cases), generator=self.generator).tolist():
            yield from range(case * self.each, (case + 1) * self.each)


class TrainingSamples(Dataset[dict[str, Tensor]]):
    """Random crops (3-D) or axial slices (2-D) of the cases, augmented."""

    def __init__(self, cases: PreparedCases, data: DataConfig, seed: int) -> None:
        self.cases, self.data = cases, data
        self.generator = Generator().manual_seed(seed + 1)
        self.augment = Compose([instantiate(part) for part in data.augment]).set_random_state(seed=seed)

    def __len__(self) -> int:
        return len(self.cases) * self.data.samples_per_case

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = self.cases[index // self.data.samples_per_case]
        fields = {"image": sample.image}
        if isinstance(sample.label, Tensor):
            fields["label"] = sample.label
        if self.data.spatial_dims == 2:
            chosen = self._choose_slice(sample)
            fields = {key: volume[..., chosen] for key, volume in fields.items()}
        places = [
            self._draw(size - wanted + 1)
            for size, wanted in zip(fields["image"].shape[1:], self.data.patch, strict=True)
        ]
        fields = {key: crop(volume, places, self.data.patch).float() for key, volume in fields.items()}
        fields = {key: torch.as_tensor(value) for key, value in self.augment(fields).items() if key in fields}
        image = _plain(fields["image"]).float()
        label = _plain(fields["label"]).round().long() if "label" in fields else torch.tensor(sample.label)
        return {"image": image, "label": label}

    def _draw(self, count: int) -> int:
        """A whole number in 0 .. count - 1; 0 if there is no choice."""
        return int(torch.randint(count, (1,), generator=self.generator)) if count > 1 else 0

    def _choose_slice(self, sample: Sample) -> int:
        """Slices with foreground are preferred; in a classification those that are not constant."""
        only = not isinstance(sample.label, Tensor)
        if only or float(torch.rand(1, generator=self.generator)) < FOREGROUND_SHARE:
            return int(sample.slices[self._draw(len(sample.slices))])
        return self._draw(sample.image.shape[-1])


def crop(volume: Tensor, places: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Cut a patch, and surround with zeros what is smaller than it.

    Args:
        volume: Shape C, then as many axes as the patch.
        places: First voxel along each axis.
        patch: Voxels along each axis.

    Returns:
        A copy of shape (C, *patch).
    """
    cut = volume[(slice(None), *(slice(place, place + size) for place, size in zip(places, patch, strict=True)))]
    around: list[int] = []
    for size, wanted in zip(reversed(cut.shape[1:]), reversed(patch), strict=True):
        around += [(wanted - size) // 2, wanted - size - (wanted - size) // 2]
    return torch.nn.functional.pad(cut, around).clone()


def _plain(value: Tensor) -> Tensor:
    """Without MONAI's record of what was done to it."""
    return value.as_subclass(Tensor)
