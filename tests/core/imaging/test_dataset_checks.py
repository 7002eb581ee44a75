"""What a check of a data folder says of cases that are possible, and unusual."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from polyclinic.errors import DataError, DatasetInvalid, ImageInvalid, ShapeMismatch
from polyclinic.imaging.dataset_checks import check_agreement, check_dataset
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.imaging.volumes import read_image
from polyclinic.learning.preparation import prepare
from tests.core.imaging.test_datasets import AFFINE, DATA, describe, entry, folder, save

__all__ = ["folder"]

SHAPE = (12, 10, 9)
SHEARED = AFFINE + np.array([[0, 0, 0.2, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def notes_of(folder: Path, **changes: Any) -> list[str]:
    describe(folder, **changes)
    return check_dataset(read_dataset(folder), deep=True)


def about(notes: list[str], *words: str) -> list[str]:
    return [note for note in notes if all(word in note for word in words)]


def test_a_sound_folder_has_no_notes(folder: Path) -> None:
    assert notes_of(folder) == []


def test_a_patient_in_two_lists_is_named(folder: Path) -> None:
    training = [entry(0) | {"subject": "a"}, entry(1) | {"subject": "b"}]
    (note,) = notes_of(folder, training=training, test=[entry(4) | {"subject": "a"}])
    assert "Patient a" in note and "'training' and 'test'" in note


def test_a_copy_of_an_image_is_found_by_its_bytes(folder: Path) -> None:
    (folder / "i4.nii.gz").write_bytes((folder / "i1.nii.gz").read_bytes())
    (note,) = notes_of(folder)
    assert "i4" in note and "i1" in note and "'test'" in note
    assert check_dataset(read_dataset(folder)) == []  # headers alone: no file is read whole


def test_a_class_that_no_map_has(folder: Path) -> None:
    labels = {"0": "background", "1": "tumour", "2": "oedema"}
    (note,) = notes_of(folder, labels=labels)
    assert "oedema" in note and "tumour" not in note


def test_empty_label_maps_make_one_note(folder: Path) -> None:
    for number in range(5):
        save(folder / f"l{number}.nii.gz", np.zeros(SHAPE, np.uint8))
    notes = notes_of(folder)
    assert len(about(notes, "empty", "5 cases")) == 1
    assert len(about(notes, "tumour")) == 1


@pytest.mark.parametrize("codes", [(0, 0), (1, 1)])
def test_a_header_that_does_not_say_where_it_lies(folder: Path, codes: tuple[int, int]) -> None:
    image = nib.load(folder / "i0.nii.gz")
    fresh = nib.Nifti1Image(np.asanyarray(image.dataobj), AFFINE)
    fresh.set_sform(AFFINE, codes[0])
    fresh.set_qform(AFFINE @ np.diag([-1, -1, 1, 1]), codes[1])
    nib.save(fresh, folder / "i0.nii.gz")
    label = nib.load(folder / "l0.nii.gz")
    affine = nib.load(folder / "i0.nii.gz").affine
    save(folder / "l0.nii.gz", np.asanyarray(label.dataobj), affine)
    (note,) = notes_of(folder)
    assert "i0" in note and ("sform and qform" in note) == (codes == (1, 1))


def shear(path: Path) -> None:
    voxels = np.asanyarray(nib.load(path).dataobj)
    image = nib.Nifti1Image(voxels, None)
    image.set_sform(SHEARED, 1)
    image.set_qform(SHEARED, 1, strip_shears=True)
    nib.save(image, path)


def test_a_label_map_with_its_images_qform_alone_fits(folder: Path) -> None:
    shear(folder / "i0.nii.gz")
    image = nib.load(folder / "i0.nii.gz")
    label = nib.Nifti1Image(np.asanyarray(nib.load(folder / "l0.nii.gz").dataobj), None)
    label.set_qform(image.get_qform(), 1)
    nib.save(label, folder / "l0.nii.gz")
    describe(folder)
    check_dataset(read_dataset(folder), deep=True)
    label.set_qform(AFFINE @ np.diag([1, 1, 1.05, 1]), 1)
    nib.save(label, folder / "l0.nii.gz")
    with pytest.raises(ShapeMismatch, match=r"[\d.]+ mm apart"):
        check_dataset(read_dataset(folder))


def two_channels(folder: Path) -> SiteDataset:
    listed = [{**entry(n), "image": [f"i{n}.nii.gz", f"c{n}.nii.gz"]} for n in range(4)]
    for number in range(4):
        save(folder / f"c{number}.nii.gz", np.random.default_rng(9 + number).random(SHAPE))
    describe(
        folder,
        modality={"0": "T1", "1": "FLAIR"},
        training=listed[:3],
        validation=listed[3:],
        test=None,
    )
    return read_dataset(folder)


def test_channels_on_different_grids_are_found_by_their_headers(folder: Path) -> None:
    dataset = two_channels(folder)
    assert len(check_dataset(dataset)) == 1  # no test cases
    save(folder / "c2.nii.gz", np.zeros(SHAPE), np.diag([2.0, 2, 2, 1]))
    with pytest.raises(ShapeMismatch, match="c2"):
        check_dataset(dataset)


@pytest.mark.parametrize("names", [("FLAIR", "T1"), ("CT", "PET")])
def test_channels_in_another_order_are_refused_by_name(folder: Path, names: Any) -> None:
    dataset = two_channels(folder)
    data = replace(DATA, channels=2, modality=("T1", "FLAIR"))
    check_agreement(dataset, data)
    check_agreement(dataset, replace(data, modality=()))
    for check in (check_dataset, prepare):
        with pytest.raises(DatasetInvalid, match=f"T1.*FLAIR.*{names[0]}.*{names[1]}"):
            check(dataset, replace(data, modality=names))


def test_every_faulty_case_is_found_and_the_others_are_looked_at(folder: Path) -> None:
    (folder / "i1.nii.gz").write_bytes((folder / "i1.nii.gz").read_bytes()[:900])
    (folder / "l4.nii.gz").write_bytes(b"no image")
    save(folder / "l2.nii.gz", np.zeros(SHAPE, np.uint8))
    found: list[tuple[str, DataError]] = []
    notes = check_dataset(
        read_dataset(folder),
        deep=True,
        on_fault=lambda case, error: found.append((case.name, error)),
    )
    assert [name for name, _ in found] == ["i1", "i4"]
    assert len(about(notes, "i2", "empty")) == 1


def test_a_damaged_test_case_is_met_while_preparing(folder: Path) -> None:
    path = folder / "i4.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="i4"):
        prepare(read_dataset(folder), DATA)
    describe(folder, test=["i4.nii.gz"])  # no label: no test reads it
    prepare(read_dataset(folder), DATA)
    tree = json.loads((folder / "dataset.json").read_text())
    tree |= {"test": [entry(4)], "excluded": ["i4.nii.gz"]}
    (folder / "dataset.json").write_text(json.dumps(tree))
    assert prepare(read_dataset(folder), DATA).dataset.test == ()


def test_nan_is_zero_where_a_setting_says_so(folder: Path) -> None:
    voxels = np.ones(SHAPE, np.float32)
    voxels[:3] = np.nan
    save(folder / "i0.nii.gz", voxels)
    dataset = read_dataset(folder)
    with pytest.raises(ImageInvalid, match=r"data\.nan_as_zero=true"):
        prepare(dataset, DATA)
    prepared = prepare(dataset, replace(DATA, nan_as_zero=True))
    assert bool(prepared.training[0].image.isfinite().all())
    image = read_image(folder / "i0.nii.gz", 1, 3, nan_as_zero=True)
    assert (float(image[0, :3].abs().max()), float(image[0, 3:].min())) == (0.0, 1.0)
    voxels[0, 0, 0] = np.inf
    save(folder / "i0.nii.gz", voxels)
    with pytest.raises(ImageInvalid, match="1 of 1,080"):
        prepare(dataset, replace(DATA, nan_as_zero=True))
