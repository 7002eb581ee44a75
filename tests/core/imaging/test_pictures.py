from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from polyclinic.imaging.pictures import COLOURS, choose_slice, label_colours, write_slice_pictures


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def scene(codes: str) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Make a volume with a bright front, and label 1 in its right front in the upper slices.

    2 x 1 x 3 mm voxels.
    """
    image, label = np.zeros((10, 16, 5), np.float32), np.zeros((10, 16, 5), np.uint8)
    image[:, 8:] = np.linspace(1, 2, 8)[None, :, None]
    label[6:, 10:, 3:] = 1
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    affine = affine @ nib.orientations.inv_ornt_aff(turn, image.shape)
    image, label = (nib.orientations.apply_orientation(each, turn) for each in (image, label))
    return torch.from_numpy(np.ascontiguousarray(image))[None], affine, np.ascontiguousarray(label)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL", "PIR"])
def test_anterior_is_up_and_right_is_left(tmp_path: Path, codes: str) -> None:
    image, affine, label = scene(codes)
    files = write_slice_pictures(tmp_path / "new", image, affine, label, {"fedavg": label * 0})
    assert sorted(files) == ["fedavg", "image", "truth"]
    grey, truth = pixels(files["image"]), pixels(files["truth"])
    height, width = grey.shape[:2]
    assert width / height == pytest.approx(10 * 2 / 16, rel=0.02)  # square pixels in mm
    assert grey[: height // 3].mean() > 100 and grey[-height // 3 :].max() == 0
    coloured = (truth != grey).any(-1)
    assert coloured[: height // 3, : width // 4].all() and not coloured[:, width // 2 :].any()
    np.testing.assert_array_equal(pixels(files["fedavg"]), grey)


def test_pictures_are_small_and_equal_when_written_again(tmp_path: Path) -> None:
    image, affine, label = scene("RAS")
    first = write_slice_pictures(tmp_path / "a", image, affine, label, {})
    second = write_slice_pictures(tmp_path / "b", image, affine, label, {})
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes()
        assert max(pixels(first[name]).shape) == 256


def test_colours_are_those_of_the_legend(tmp_path: Path) -> None:
    legend = label_colours(("background", "a", "b"))
    assert legend == {"a": COLOURS[0], "b": COLOURS[1]}
    labels = np.zeros((8, 8, 1), np.uint8)
    labels[:4], labels[4:] = 1, 2
    files = write_slice_pictures(tmp_path, torch.zeros(1, 8, 8, 1), np.eye(4), labels, {})
    shown = pixels(files["truth"])
    for colour, pixel in ((legend["b"], shown[0, 0]), (legend["a"], shown[0, -1])):
        wanted = [0.55 * int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        np.testing.assert_allclose(pixel, wanted, atol=1)


def test_without_truth_the_middle_is_shown(tmp_path: Path) -> None:
    files = write_slice_pictures(tmp_path, torch.rand(2, 6, 7, 8), np.eye(4), None, {})
    assert list(files) == ["image"]


def test_the_slice_with_most_to_see() -> None:
    labels = torch.zeros(1, 4, 4, 6, dtype=torch.int32)
    assert choose_slice(labels, 2) == 3
    labels[0, :, :, 1], labels[0, 0, 0, 4], labels[0, 1:, 0, 4] = 1, 2, 1
    assert choose_slice(labels, 2) == 4  # the only one with both classes


@pytest.mark.parametrize("name", ["", "../a", "a/b", "image", ".hidden"])
def test_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        write_slice_pictures(
            tmp_path, torch.rand(1, 4, 4, 4), np.eye(4), None, {name: np.zeros((4, 4, 4), np.uint8)}
        )


def test_labels_on_another_grid(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not on"):
        write_slice_pictures(
            tmp_path, torch.rand(1, 4, 4, 4), np.eye(4), np.zeros((4, 4, 5), np.uint8), {}
        )
