import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from polyclinic.errors import FileMissing, ImageUnreadable
from polyclinic_demos.cohorts.anatomy import DISPLACEMENT_MM, Subject, real_person, sample, subject
from polyclinic_strategies.proxy.frame.icbm152 import TissueMaps, icbm152

CENTIMETRES = np.diag([5.0, 5.0, 5.0, 1.0])
CENTIMETRES[:3, 3] = (-95, -135, -75)
COARSE = (39, 47, 38)  # the whole template at 5 mm


def _still(maps: TissueMaps) -> Subject:
    return Subject(maps, np.eye(4), torch.zeros(3, 4, 4, 4), np.diag([90.0, 90.0, 90.0, 1.0]))


def test_template_is_three_probabilities() -> None:
    maps = icbm152()
    assert maps.probabilities.shape[0] == 3
    assert maps.probabilities.min() >= 0
    assert maps.probabilities.sum(0).max() <= 1 + 1e-5
    litres = maps.probabilities.sum((1, 2, 3)) / 1e6
    assert 0.1 < litres[0] < 0.5  # CSF: ventricles and furrows
    assert litres[1] > litres[2] > 0.4  # more grey than white matter


def test_template_lies_in_its_world() -> None:
    at = lambda *mm: sample(_still(icbm152()), _at(mm), (2, 2, 2))[:, 0, 0, 0]  # noqa: E731
    assert at(25, -10, 28)[2] > 0.8  # white matter of the corona radiata, right
    assert at(5, 10, 12)[0] > 0.5  # the frontal horn of the ventricle
    assert at(0, 0, 110).sum() == 0  # above the head


def _at(mm: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 3] = mm
    return affine


def test_sampling_without_deformation_returns_the_maps() -> None:
    maps = icbm152()
    height, width, depth = maps.probabilities.shape[1:]
    corner = maps.affine @ np.array([[1, 0, 0, 40], [0, 1, 0, 60], [0, 0, 1, 50], [0, 0, 0, 1]])
    read = sample(_still(maps), corner, (30, 30, 30))
    assert height > 70 and width > 90 and depth > 80
    torch.testing.assert_close(read, maps.probabilities[:, 40:70, 60:90, 50:80], atol=1e-3, rtol=0)


def test_same_seed_same_person() -> None:
    first, again, other = (sample(subject(seed), CENTIMETRES, COARSE) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_displacement_is_as_wide_as_promised_and_never_folds(seed: int) -> None:
    moved = subject(seed).displacement_mm
    rms = moved.square().sum(0).mean().sqrt()
    assert DISPLACEMENT_MM[0] * 0.95 < rms < DISPLACEMENT_MM[1] * 1.05
    # (axis of derivative, component, h, w, d)
    gradient = torch.stack(torch.gradient(moved / 4.0, dim=(1, 2, 3)))
    jacobian = torch.eye(3) + gradient.permute(2, 3, 4, 1, 0)
    assert torch.linalg.det(jacobian).min() > 0


def test_a_person_still_overlaps_the_template() -> None:
    brain = sample(_still(icbm152()), CENTIMETRES, COARSE).sum(0) > 0.5
    person = sample(subject(3), CENTIMETRES, COARSE).sum(0) > 0.5
    assert 2 * (brain & person).sum() / (brain.sum() + person.sum()) > 0.8


def test_label_map_becomes_tissues(tmp_path: Path) -> None:
    structures = np.zeros((20, 20, 20), np.uint8)
    structures[4:16, 4:16, 4:16] = 3  # cortex
    structures[6:14, 6:14, 6:14] = 41  # white matter
    structures[9:11, 9:11, 9:11] = 4  # ventricle
    structures[0, 0, 0] = 24  # CSF outside the brain: not drawn evenly, left out
    affine = np.diag([-1.0, 1, 1, 1])
    nibabel.save(nibabel.Nifti1Image(structures, affine), tmp_path / "a.nii.gz")
    maps = real_person(tmp_path / "a.nii.gz")
    index = np.linalg.inv(maps.affine) @ affine @ [5, 9, 9, 1]
    assert maps.probabilities[:, int(index[0]), int(index[1]), int(index[2])].argmax() == 1
    assert maps.probabilities.sum((1, 2, 3)).numpy() == pytest.approx(
        [8, 12**3 - 8**3, 8**3 - 8], rel=0.05
    )


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match="absent"):
        real_person(tmp_path / "absent.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(ImageUnreadable, match="broken"):
        real_person(tmp_path / "broken.nii.gz")


@pytest.mark.skipif(
    "POLYCLINIC_DATA" not in os.environ, reason="POLYCLINIC_DATA is unset: no real anatomies here"
)
def test_real_people_have_a_plausible_brain() -> None:
    files = sorted(
        (Path(os.environ["POLYCLINIC_DATA"]) / "brain_label_maps").glob("training_seg_*.nii.gz")
    )
    maps = real_person(files[0])
    litres = maps.probabilities.sum((1, 2, 3)) / 1e6
    assert 0.8 < litres.sum() < 1.8
    assert 0.005 < litres[0] < 0.12
