"""Surface Dice and Hausdorff 95 are those of the package that defined them, and of MONAI."""

import numpy as np
import pytest
import surface_distance
import torch
from monai.metrics import compute_surface_dice
from numpy.typing import NDArray

from polyclinic.learning.measures.surfaces import measure_surfaces

Mask = NDArray[np.bool_]


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> Mask:
    places = np.moveaxis(np.indices(shape), 0, -1)
    return np.asarray(((places - np.array(centre)) ** 2).sum(-1) <= radius**2)


def noise(shape: tuple[int, ...], seed: int, share: float = 0.3) -> Mask:
    return np.random.default_rng(seed).random(shape) < share


def one_voxel(shape: tuple[int, ...], place: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[place] = True
    return mask


CASES = {
    "random": (noise((9, 8, 7), 0), noise((9, 8, 7), 1), (1.0, 1.0, 1.0)),
    "anisotropic": (noise((9, 8, 7), 2), noise((9, 8, 7), 3), (0.7, 1.3, 5.0)),
    "balls": (ball((20, 20, 12), (9, 9, 5), 5), ball((20, 20, 12), (11, 9, 6), 4), (1.0, 0.5, 3.0)),
    "one voxel each": (one_voxel((6, 6, 6), (1, 1, 1)), one_voxel((6, 6, 6), (4, 2, 1)), (1, 2, 3)),
    "one voxel and a ball": (
        one_voxel((9, 9, 9), (0, 0, 0)),
        ball((9, 9, 9), (5, 5, 5), 3),
        (2,) * 3,
    ),
    "at the border": (np.ones((4, 4, 4), bool), noise((4, 4, 4), 5, 0.9), (1.0, 1.0, 2.0)),
    "equal": (ball((9, 9, 9), (4, 4, 4), 3), ball((9, 9, 9), (4, 4, 4), 3), (1.0, 1.0, 1.0)),
    "2-D": (noise((12, 11), 6), noise((12, 11), 7), (0.5, 2.0)),
    "one pixel": (one_voxel((7, 7), (1, 2)), one_voxel((7, 7), (5, 5)), (1.0, 3.0)),
}


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # of the package
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tolerance_mm", [0.5, 1.9, 4.3])
def test_it_is_that_of_the_package_surface_distance(name: str, tolerance_mm: float) -> None:
    prediction, truth, spacing = CASES[name]
    distances = surface_distance.compute_surface_distances(truth, prediction, spacing)
    dice, hausdorff = measure_surfaces(prediction, truth, spacing, tolerance_mm)

    expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)
    assert dice == pytest.approx(expected, abs=1e-6)
    expected = surface_distance.compute_robust_hausdorff(distances, 95)
    assert hausdorff == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # of MONAI itself
@pytest.mark.parametrize("name", CASES)
def test_surface_dice_is_that_of_monai(name: str) -> None:
    prediction, truth, spacing = CASES[name]
    one, other = (torch.from_numpy(np.pad(each, 1))[None, None] for each in (prediction, truth))
    expected = compute_surface_dice(
        one, other, [2.2], include_background=True, spacing=spacing, use_subvoxels=True
    )
    dice, _ = measure_surfaces(prediction, truth, spacing, 2.2)
    assert dice == pytest.approx(float(expected), abs=1e-6)


def test_two_cubes_by_hand() -> None:
    one, other = np.zeros((2, 12, 8, 8), dtype=bool)
    one[2:6, 2:6, 2:6], other[5:9, 2:6, 2:6] = True, True  # 3 voxels of 2 mm apart
    _, hausdorff = measure_surfaces(one, other, (2.0, 1.0, 1.0), 1.0)
    assert hausdorff == pytest.approx(6.0)
    assert measure_surfaces(one, other, (2.0, 1.0, 1.0), 6.0)[0] == pytest.approx(1.0)


def test_surroundings_and_the_order_of_the_two_change_nothing() -> None:
    prediction, truth, spacing = CASES["balls"]
    plain = measure_surfaces(prediction, truth, spacing, 1.0)
    padded = measure_surfaces(np.pad(prediction, 7), np.pad(truth, 7), spacing, 1.0)
    assert padded == pytest.approx(plain, abs=1e-12)
    assert measure_surfaces(truth, prediction, spacing, 1.0) == pytest.approx(plain, abs=1e-12)


def test_ill_shaped() -> None:
    full, empty = np.ones((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    with pytest.raises(ValueError, match="shape"):
        measure_surfaces(full, full[:2], (1, 1, 1), 1)
    with pytest.raises(ValueError, match="shape"):
        measure_surfaces(full, full, (1, 1), 1)
    for pair in ((full, empty), (empty, full)):
        with pytest.raises(ValueError, match="empty"):
            measure_surfaces(*pair, (1, 1, 1), 1)
