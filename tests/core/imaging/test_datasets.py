"""A hospital's folder, right and wrong."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from polyclinic.config.schemas import DataConfig, TrainingConfig
from polyclinic.errors import (
    ConfigError,
    DataError,
    DatasetInvalid,
    FileMissing,
    ImageInvalid,
    ImageTooLarge,
    ImageUnreadable,
    LabelInvalid,
    ShapeMismatch,
)
from polyclinic.imaging.dataset_checks import check_dataset
from polyclinic.imaging.dataset_files import ELSEWHERE
from polyclinic.imaging.datasets import evaluation_cases, read_dataset
from polyclinic.imaging.grids import network_grid
from polyclinic.imaging.headers import Grid
from polyclinic.learning.crops import crop
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.preparation import prepare, prepare_case

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])
LABELS = ("background", "tumour")
DATA = DataConfig(
    task="segmentation",
    channels=1,
    labels=LABELS,
    orientation="RAS",
    spacing_mm=(2.0, 2.0, 2.0),
    patch=(8, 8, 8),
    samples_per_case=2,
    cache_gb=1.0,
    intensity=({"_target_": "monai.transforms.NormalizeIntensityd", "keys": "image"},),
    augment=(
        {
            "_target_": "monai.transforms.RandFlipd",
            "keys": ["image", "label"],
            "prob": 0.5,
            "spatial_axis": 0,
        },
    ),
)
TRAINING = TrainingConfig(epochs=1, batch_size=3, learning_rate=0.01, optimizer={}, loss={})


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(voxels, affine), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three training, one validation, one test case."""
    random = np.random.default_rng(0)
    for number in range(5):
        label = np.zeros((12, 10, 9), np.uint8)
        label[3:8, 2:7, 3:6] = 1
        save(
            tmp_path / f"i{number}.nii.gz",
            (random.normal(size=label.shape) + 5 * label).astype(np.float32),
        )
        save(tmp_path / f"l{number}.nii.gz", label)
    describe(tmp_path)
    return tmp_path


def entry(number: int) -> dict[str, Any]:
    return {"image": f"i{number}.nii.gz", "label": f"l{number}.nii.gz"}


def describe(folder: Path, **changes: Any) -> None:
    tree = {
        "name": "north",
        "modality": {"0": "T1"},
        "labels": dict(zip("01", LABELS, strict=True)),
        "training": [entry(0), entry(1), entry(2)],
        "validation": [entry(3)],
        "test": [entry(4)],
    }
    tree = {key: value for key, value in {**tree, **changes}.items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(tree))


def test_reads_and_checks(folder: Path) -> None:
    dataset = read_dataset(folder)
    assert (dataset.name, dataset.modality, dataset.labels) == ("north", ("T1",), LABELS)
    assert [case.name for case in dataset.cases] == ["i0", "i1", "i2", "i3", "i4"]
    assert dataset.task == "segmentation" and dataset.test[0].split == "test"
    calls: list[tuple[int, int, str]] = []
    assert (
        check_dataset(dataset, DATA, deep=True, on_progress=lambda *call: calls.append(call)) == []
    )
    assert calls[0] == (1, 5, "i0") and calls[-1] == (5, 5, "i4")
    assert check_dataset(dataset) == []


def test_a_test_without_labels_takes_the_validation(folder: Path) -> None:
    for test in (None, [], ["i4.nii.gz"]):
        describe(folder, test=test)
        dataset = read_dataset(folder)
        assert [case.split for case in evaluation_cases(dataset)] == ["validation"]
        assert any("validation" in warning for warning in check_dataset(dataset, DATA))
    describe(folder)
    assert [case.split for case in evaluation_cases(read_dataset(folder))] == ["test"]


def test_odd_but_possible(folder: Path) -> None:
    save(folder / "l1.nii.gz", np.zeros((12, 10, 9), np.uint8))
    save(folder / "i2.nii.gz", np.ones((12, 10, 9), np.uint8))
    describe(folder, validation=[entry(0)])
    warnings = " ".join(check_dataset(read_dataset(folder), DATA, deep=True))
    assert "i1: the label map is empty" in warnings and "all voxels" in warnings
    assert "listed under 'training' and again under 'validation'" in warnings


def test_files_elsewhere_and_names_that_repeat(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled = tmp_path_factory.mktemp("pooled")
    inside = folder / "south"
    inside.mkdir()
    (folder / "i0.nii.gz").rename(inside / "i0.nii.gz")
    save(folder / "i0.nii.gz", np.ones((12, 10, 9), np.uint8))
    there = f"../{folder.name}" if folder.parent == pooled.parent else str(folder)
    here = [
        {"image": f"{there}/{name}", "label": f"{there}/l0.nii.gz"}
        for name in ("i0.nii.gz", "south/i0.nii.gz")
    ]
    describe(pooled, training=here, validation=[here[0]], test=None)
    with pytest.raises(DatasetInvalid, match=ELSEWHERE):
        read_dataset(pooled)
    monkeypatch.setenv(ELSEWHERE, f"/nowhere:{folder}")
    names = [case.name for case in read_dataset(pooled).training]
    assert len(set(names)) == 2 and names[1].endswith("south_i0")


def name_labels(names: list[str]) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": None}, "'labels' is missing"),
        ({"labels": ["background", "tumour"]}, "'labels'"),
        ({"labels": {"1": "background", "2": "tumour"}}, "keys 1, 2"),
        ({"labels": {"0": "background", "-1": "tumour"}}, "keys 0, -1"),
        ({"labels": {"background": 0, "tumour": [0, 2]}}, "regions of the numbers 0, 2"),
        ({"labels": {"background": 0, "ignore": 1}}, "ignore"),
        ({"labels": {"0": "background", "1": 1}}, "not a name"),
        ({"labels": name_labels(["a", "a"])}, "differently"),
        ({"labels": name_labels(["a"])}, "two classes"),
        ({"modality": None}, "'modality'"),
        ({"training": []}, "'training' is empty"),
        ({"validation": None, "training": [entry(0)]}, "'validation' is empty or missing"),
        ({"training": "i0.nii.gz"}, "not a list"),
        ({"training": ["i0.nii.gz"]}, "no 'image'"),
        ({"training": [{"image": "i0.nii.gz"}]}, "no label"),
        ({"training": [{"image": [], "label": "l0.nii.gz"}]}, "no image"),
        ({"training": [{"image": 3, "label": "l0.nii.gz"}]}, "names a file as 3"),
        ({"training": [{"image": "i0\0.nii.gz", "label": "l0.nii.gz"}]}, "names a file"),
        ({"training": [{"image": "i" * 5000, "label": "l0.nii.gz"}]}, "cannot be reached"),
        ({"training": [{"image": "i0.nii.gz", "label": 7}]}, "label 7"),
        ({"training": [{"image": "i0.nii.gz", "label": True}]}, "names a file as True"),
        ({"training": [{"image": "i0.nii.gz", "label": 1}]}, "some labels are files"),
    ],
)
def test_a_wrong_dataset_json(folder: Path, changes: dict[str, Any], problem: str) -> None:
    describe(folder, **changes)
    with pytest.raises(DatasetInvalid, match=problem):
        read_dataset(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\xff", "[" * 100_000])
def test_not_json(folder: Path, text: str) -> None:
    (folder / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetInvalid):
        read_dataset(folder)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match=r"dataset\.json"):
        read_dataset(tmp_path / "nowhere")
    (folder / "l3.nii.gz").unlink()
    with pytest.raises(FileMissing, match=r"l3\.nii\.gz.*'validation'"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            replace(DATA, labels=("background", "lesion")),
            r"\['background', 'tumour'\].*\['background', 'lesion'\]",
        ),
        (replace(DATA, labels=("tumour", "background")), "same order"),
        (replace(DATA, task="classification"), "task is classification"),
        (replace(DATA, channels=2), r"1 channel\(s\)"),
    ],
)
def test_another_task_than_the_federations(folder: Path, data: DataConfig, problem: str) -> None:
    for check in (check_dataset, prepare):
        with pytest.raises(DatasetInvalid, match=problem):
            check(read_dataset(folder), data)


def spoil_header(path: Path) -> None:
    blob = bytearray(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), AFFINE).to_bytes())
    blob[40:56] = np.array([3, 30000, 30000, 300, 1, 1, 1, 1], np.int16).tobytes()
    path.write_bytes(gzip.compress(blob))


def spoil_label(value: float) -> Callable[[Path], None]:
    return lambda path: save(path, np.full((12, 10, 9), value, np.float32))


@pytest.mark.parametrize(
    ("name", "spoil", "error", "deep"),
    [
        ("i1", lambda path: path.write_bytes(b"no image" * 100), ImageUnreadable, False),
        ("i1", lambda path: path.write_bytes(path.read_bytes()[:900]), ImageUnreadable, True),
        (
            "i1",
            lambda path: save(path, np.full((12, 10, 9), np.nan, np.float32)),
            ImageInvalid,
            True,
        ),
        ("i1", spoil_header, ImageTooLarge, False),
        ("i1", lambda path: save(path, np.zeros((12, 10, 9, 2), np.uint8)), DatasetInvalid, False),
        ("l1", lambda path: save(path, np.zeros((12, 10, 8), np.uint8)), ShapeMismatch, False),
        (
            "l1",
            lambda path: save(path, np.zeros((12, 10, 9), np.uint8), np.diag([2.0, 2, 2, 1])),
            ShapeMismatch,
            False,
        ),
        ("l1", spoil_label(2.0), LabelInvalid, True),
        ("l1", spoil_label(0.5), LabelInvalid, True),
        ("l1", spoil_label(-1.0), LabelInvalid, True),
    ],
)
def test_every_bad_file_is_found(
    folder: Path, name: str, spoil: Callable[[Path], None], error: type[DataError], deep: bool
) -> None:
    spoil(folder / f"{name}.nii.gz")
    dataset = read_dataset(folder)
    with pytest.raises(error):
        check_dataset(dataset, DATA, deep=deep)
    with pytest.raises(error):
        check_dataset(dataset, deep=deep)
    with pytest.raises(DataError):
        prepare(dataset, DATA)


def test_samples(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    prepared = prepare(read_dataset(folder), DATA, lambda *call: calls.append(call))
    assert calls[-1] == (5, 5) and prepared.training.complete
    sample = prepared.training[0]
    assert sample.image.shape == (1, 12, 10, 9) and abs(float(sample.image.mean())) < 1e-5
    label = nib.load(folder / "l0.nii.gz").get_fdata()[::-1]  # LAS on disk, RAS for the network
    np.testing.assert_array_equal(sample.label[0].numpy(), label)
    batches = list(training_loader(prepared, TRAINING, seed=0))
    assert [len(batch["image"]) for batch in batches] == [3, 3]
    for batch in batches:
        assert batch["image"].shape == batch["label"].shape == (3, 1, 8, 8, 8)
        assert batch["image"].dtype == torch.float32 and batch["label"].dtype == torch.int64
        # both were cropped and flipped alike
        assert float((batch["image"] * (2 * batch["label"] - 1)).mean()) > 0.3


def test_equal_seeds_draw_equal_samples_with_and_without_a_cache(folder: Path) -> None:
    dataset = read_dataset(folder)
    prepared, uncached = prepare(dataset, DATA), prepare(dataset, replace(DATA, cache_gb=0))
    assert not uncached.training.complete

    def draw(site: Any, seed: int) -> torch.Tensor:
        loader = training_loader(site, TRAINING, seed)
        return torch.cat([batch["image"] for _ in range(2) for batch in loader])

    assert torch.equal(draw(prepared, 1), draw(prepared, 1))
    assert torch.equal(draw(uncached, 1), draw(uncached, 1))
    assert not torch.equal(draw(prepared, 1), draw(prepared, 2))
    first, second = draw(prepared, 1).chunk(2)
    assert not torch.equal(first, second)  # every pass draws anew


def test_a_small_cache_keeps_what_fits(folder: Path) -> None:
    one = 12 * 10 * 9 * 5  # float32 image and uint8 label
    prepared = prepare(read_dataset(folder), replace(DATA, cache_gb=2.5 * one / 2**30))
    assert prepared.training.bytes == 2 * one and prepared.validation.bytes == 0
    assert [sample.case.name for sample in prepared.training] == ["i0", "i1", "i2"]
    assert [sample.case.name for sample in prepared.validation[:]] == ["i3"]


def test_slices_of_volumes_prefer_the_foreground(folder: Path) -> None:
    data = replace(DATA, patch=(16, 8), samples_per_case=40)
    prepared = prepare(read_dataset(folder), data)
    assert prepared.training[0].slices.tolist() == [3, 4, 5]
    labels = torch.cat([batch["label"] for batch in training_loader(prepared, TRAINING, 0)])
    assert labels.shape == (120, 1, 16, 8)
    share = float(labels.flatten(1).any(1).float().mean())
    assert share == pytest.approx(0.75 + 0.25 / 3, abs=0.1)


@pytest.mark.parametrize("suffix", ["png", "nii.gz"])
def test_two_dimensional_images(tmp_path: Path, suffix: str) -> None:
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30 + number)).astype(np.uint8)
        if suffix == "png":
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        else:
            save(tmp_path / f"{number}.nii.gz", pixels)
    cases = [{"image": f"{number}.{suffix}", "label": number % 2} for number in range(4)]
    describe(tmp_path, training=cases[:3], validation=cases[3:], test=None)
    augment = (
        {"_target_": "monai.transforms.RandFlipd", "keys": "image", "prob": 0.5, "spatial_axis": 0},
    )
    data = replace(DATA, task="classification", patch=(16, 12), spacing_mm=None, augment=augment)
    dataset = read_dataset(tmp_path)
    assert dataset.task == "classification"
    assert len(check_dataset(dataset, data, deep=True)) == 1  # no test cases
    batch = next(iter(training_loader(prepare(dataset, data), TRAINING, 0)))
    assert batch["image"].shape == (3, 1, 16, 12) and batch["label"].shape == (3,)
    assert batch["label"].dtype == torch.int64


def test_the_networks_grid() -> None:
    # axes: posterior, superior, right
    affine = np.array([[0.0, 0, 3, -10], [-1, 0, 0, 20], [0, 2, 0, 5], [0, 0, 0, 1]])
    native = Grid((40, 20, 10), affine)
    grid = network_grid(native, replace(DATA, spacing_mm=(1.5, 2.0, 4.0)))
    assert grid.shape == (20, 20, 10)
    assert nib.aff2axcodes(grid.affine) == ("R", "A", "S")
    np.testing.assert_allclose(np.diag(grid.affine)[:3], (1.5, 2.0, 4.0))
    centres = [each.affine @ [*((np.array(each.shape) - 1) / 2), 1] for each in (native, grid)]
    np.testing.assert_allclose(*centres)
    assert network_grid(native, replace(DATA, spacing_mm=None)).shape == (8, 8, 8)
    same = network_grid(Grid((4, 5, 6), np.diag([2.0, 2, 2, 1])), DATA)
    np.testing.assert_allclose(same.affine, np.diag([2.0, 2, 2, 1]))


def test_a_single_slice_of_any_direction_stays_a_slice() -> None:
    sagittal = np.array([[0.0, 0, 5, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    grid = network_grid(
        Grid((30, 20, 1), sagittal), replace(DATA, patch=(8, 8), spacing_mm=(2.0, 1.0, 1.0))
    )
    assert grid.shape == (15, 20, 1)


@pytest.mark.parametrize(
    "change",
    [{"orientation": "RRS"}, {"orientation": "RLA"}, {"spacing_mm": (0.001, 0.001, 0.001)}],
)
def test_impossible_settings(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        network_grid(Grid((40, 20, 10), np.eye(4)), replace(DATA, **change))


def test_crop_pads_what_is_too_small() -> None:
    volume = torch.arange(1, 13.0).view(1, 3, 4)
    cut = crop(volume, [0, 1], [5, 2])
    assert torch.equal(cut[0, 1:4], volume[0, :, 1:3]) and float(cut[0, [0, 4]].sum()) == 0


def test_label_of_another_shape_is_met_when_prepared(folder: Path) -> None:
    save(folder / "l0.nii.gz", np.zeros((12, 10, 8), np.uint8))
    with pytest.raises(ShapeMismatch):
        prepare_case(read_dataset(folder).training[0], DATA)
