from dataclasses import replace

import nibabel
import numpy as np
import pytest

from polyclinic_demos.cohorts.anatomy import sample, subject
from polyclinic_demos.cohorts.hospitals import HOSPITALS
from polyclinic_demos.cohorts.scanner import Scan, Scanner, acquire
from polyclinic_strategies.proxy.frame.icbm152 import icbm152

COARSE_MM = (3.0, 3.0, 3.0)
T1 = replace(HOSPITALS[0], voxel_mm=COARSE_MM)
T2 = replace(HOSPITALS[4], voxel_mm=COARSE_MM)
FLAIR = replace(HOSPITALS[5], voxel_mm=COARSE_MM)


def _means(scan: Scan) -> list[float]:
    return [float(scan.image[scan.label_map == label].mean()) for label in range(4)]


def test_t1_and_t2_invert_and_air_is_dark_in_both() -> None:
    person = subject(1)
    air, csf, grey, white = _means(acquire(person, T1, 1))
    assert air < csf / 2 < csf < grey < white
    air, csf, grey, white = _means(acquire(person, T2, 1))
    assert air < white / 2 < white < grey < csf
    air, csf, grey, white = _means(acquire(person, FLAIR, 1))
    assert air < csf < white < grey


@pytest.mark.parametrize("scanner", HOSPITALS, ids=lambda scanner: scanner.name)
def test_air_is_darker_than_every_tissue_at_every_hospital(scanner: Scanner) -> None:
    air, *tissues = _means(acquire(subject(2), replace(scanner, voxel_mm=COARSE_MM), 2))
    assert air < min(tissues)


def test_a_perfect_scanner_shows_the_contrast_itself() -> None:
    perfect = Scanner("perfect", "T1", (0.2, 0.6, 1.0), 0.0, 0.0, COARSE_MM, 0.0, 0.0, "RAS")
    person = subject(1)
    scan = acquire(person, perfect, 1)
    fine = scan.affine @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])
    fine[:3, 3] -= 1.0  # each 3 mm voxel is the mean of 27 points, 1 mm apart
    size = [3 * n for n in scan.image.shape]
    tissues = sample(person, fine, (size[0], size[1], size[2])).numpy()
    tissues = tissues.reshape(3, size[0] // 3, 3, size[1] // 3, 3, size[2] // 3, 3).mean((2, 4, 6))
    expected = np.tensordot([0.2, 0.6, 1.0], tissues, 1)
    gain = scan.image.sum() / expected.sum()
    assert np.abs(scan.image / gain - expected).mean() < 0.005
    best = np.concatenate([1 - tissues.sum(0, keepdims=True), tissues]).argmax(0)
    assert (best == scan.label_map).mean() > 0.995


def test_same_seed_same_voxels_other_seed_other_noise() -> None:
    person = subject(5)
    first, again, other = (acquire(person, T1, seed) for seed in (3, 3, 4))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()
    assert first.label_map.tobytes() == again.label_map.tobytes() == other.label_map.tobytes()


def test_stored_types_and_voxel_size() -> None:
    scan = acquire(subject(5), replace(T1, voxel_mm=(3.0, 4.0, 5.0), orientation="PIR"), 3)
    assert scan.image.dtype == np.int16
    assert scan.label_map.dtype == np.uint8
    assert scan.image.shape == scan.label_map.shape
    assert set(np.unique(scan.label_map)) == {0, 1, 2, 3}
    assert nibabel.affines.voxel_sizes(scan.affine) == pytest.approx((3.0, 4.0, 5.0))


@pytest.mark.parametrize("scanner", HOSPITALS, ids=lambda scanner: scanner.orientation)
def test_every_orientation_is_the_same_head_once_reoriented(scanner: Scanner) -> None:
    person = subject(4)
    scan = acquire(person, replace(scanner, voxel_mm=(2.0, 2.0, 2.0)), 1)
    assert "".join(nibabel.aff2axcodes(scan.affine)) == scanner.orientation
    upright = nibabel.as_closest_canonical(nibabel.Nifti1Image(scan.label_map, scan.affine))
    stored = np.asarray(upright.dataobj)
    direct = sample(
        person, upright.affine, stored.shape
    ).numpy()  # the person, read straight in RAS
    expected = np.concatenate([1 - direct.sum(0, keepdims=True), direct]).argmax(0)
    assert _dice(stored, expected) > 0.9
    for axis in range(3):
        assert _dice(np.flip(stored, axis), expected) < _dice(stored, expected) - 0.15


def test_upright_brain_is_the_template_more_than_its_mirror_images() -> None:
    scan = acquire(subject(4), replace(T1, voxel_mm=(2.0, 2.0, 2.0)), 1)
    upright = nibabel.as_closest_canonical(nibabel.Nifti1Image(scan.label_map, scan.affine))
    labels, maps = np.asarray(upright.dataobj), icbm152()
    still = subject(4)
    still = replace(still, maps=maps, pose=np.eye(4), displacement_mm=still.displacement_mm * 0)
    tissues = sample(still, upright.affine, labels.shape).numpy()
    template = np.concatenate([1 - tissues.sum(0, keepdims=True), tissues]).argmax(0)
    assert _dice(labels, template) > _dice(labels[:, ::-1], template) + 0.1  # front and back
    assert _dice(labels, template) > _dice(labels[:, :, ::-1], template) + 0.1  # top and bottom


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    """Mean overlap of the three tissues."""
    pairs = [(one == label, other == label) for label in (1, 2, 3)]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


@pytest.mark.parametrize("orientation", ["RAR", "RA", "XYZ", "RASL"])
def test_impossible_orientations_are_refused(orientation: str) -> None:
    with pytest.raises(ValueError, match="orientation"):
        replace(T1, orientation=orientation)


def test_impossible_voxels_are_refused() -> None:
    with pytest.raises(ValueError, match="voxel_mm"):
        replace(T1, voxel_mm=(1.0, 0.0, 1.0))
