"""Memory of images, numbers of labels, and pictures as cameras write them."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from polyclinic.errors import ImageTooLarge, ImageUnreadable, LabelInvalid
from polyclinic.imaging import nifti
from polyclinic.imaging.image_files import check_header
from polyclinic.imaging.volumes import read_image, read_label

EXIF_ORIENTATION = 0x0112


def scaled(path: Path, voxels: np.ndarray, slope: float, inter: float = 0.0) -> Path:
    """Write numbers that a header scales."""
    image = nib.Nifti1Image(voxels, np.diag([1.0, 1, 1, 1]), dtype=voxels.dtype)
    image.header.set_slope_inter(slope, inter)
    blob = bytearray(image.to_bytes())
    blob[112:120] = np.array([slope, inter], "<f4").tobytes()
    path.write_bytes(blob)
    return path


def peak_bytes(read: Callable[[], object]) -> int:
    tracemalloc.start()
    read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_reading_takes_the_memory_that_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, slope: float
) -> None:
    monkeypatch.setattr(nifti, "BLOCK", 2**12)
    path = scaled(tmp_path / "a.nii", np.ones((96, 80, 64), dtype), slope)
    header = check_header(path)
    read_image(path, 1, 3)  # what is imported and cached the first time does not count
    assert peak_bytes(lambda: read_image(path, 1, 3)) < 1.2 * header.bytes
    if slope == 1:
        assert peak_bytes(lambda: read_label(path)) < 1.2 * header.bytes
    with pytest.raises(ImageTooLarge):
        read_image(path, 1, 3, limit_bytes=header.bytes - 1)
    assert read_image(path, 1, 3, limit_bytes=header.bytes).shape == (1, 96, 80, 64)


def test_the_channels_files_are_checked_together(tmp_path: Path) -> None:
    paths = [scaled(tmp_path / f"{n}.nii", np.ones((8, 8, 8), "u1"), 1) for n in range(4)]
    one = check_header(paths[0]).bytes
    assert read_image(paths, 4, 3, limit_bytes=4 * one).shape == (4, 8, 8, 8)
    with pytest.raises(ImageTooLarge):
        read_image(paths, 4, 3, limit_bytes=4 * one - 1)


@pytest.mark.parametrize("block", [1, 7, 24, 1000])
def test_blocks_of_any_size_make_the_same_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    voxels = np.random.default_rng(0).integers(0, 100, (5, 4, 3, 2)).astype("i2")
    path = scaled(tmp_path / "a.nii", voxels, 0.5, -3.0)
    monkeypatch.setattr(nifti, "BLOCK", block)
    expected = np.moveaxis(voxels, -1, 0) * 0.5 - 3
    np.testing.assert_allclose(read_image(path, 2, 3).numpy(), expected)


def test_pictures_are_checked_for_what_reading_takes(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((400, 500), np.uint8)).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    read_image(path, 3, 2)
    assert peak_bytes(lambda: read_image(path, 3, 2)) <= check_header(path).bytes


@pytest.mark.parametrize(
    ("stored", "slope"),
    [([0, 255], 1 / 255), ([0, 10, 20], 0.1), ([0, 100], 0.01), ([0, 3], 1 / 3)],
)
def test_scaled_labels_are_whole_numbers(tmp_path: Path, stored: list[int], slope: float) -> None:
    voxels = np.resize(np.array(stored, np.uint8), (3, 3, 3))
    label = read_label(scaled(tmp_path / "a.nii", voxels, slope), len(stored))
    order = {value: number for number, value in enumerate(stored)}
    assert label.numpy()[0].tolist() == np.vectorize(order.get)(voxels).tolist()


def test_labels_that_are_nearly_whole(tmp_path: Path) -> None:
    values = np.array([0.0, 0.9999999, 1.0000001, 1.9995], np.float32)
    path = scaled(tmp_path / "a.nii", np.resize(values, (2, 2, 2)), 1)
    assert read_label(path, 3).numpy().ravel().tolist() == [0, 1, 1, 2] * 2
    path = scaled(tmp_path / "b.nii", np.full((2, 2, 2), 0.99, np.float32), 1)
    with pytest.raises(LabelInvalid, match=r"0\.99"):
        read_label(path, 3)
    path = scaled(tmp_path / "c.nii", np.full((2, 2, 2), 3, np.uint8), 0.4)
    with pytest.raises(LabelInvalid, match=r"1\.2.*0\.4"):
        read_label(path, 3)


def test_large_numbers_do_not_wrap_around(tmp_path: Path) -> None:
    for value, dtype in ((2**32 + 1, "u8"), (2**63, "u8"), (-1, "i8"), (1e30, "f8")):
        path = scaled(tmp_path / "a.nii", np.full((2, 2, 2), value, dtype), 1)
        with pytest.raises(LabelInvalid):
            read_label(path, 3)
        with pytest.raises(LabelInvalid):
            read_label(path)
        with pytest.raises(LabelInvalid):
            read_label(path, 3, values=(0, 1, 4))


def test_a_picture_may_have_nii_in_its_name(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "scan.nii_007.png")
    assert check_header(tmp_path / "scan.nii_007.png").shape == (6, 4)


def test_sixteen_bits_of_grey_become_three_channels(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2000
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 3, 2).numpy()
    assert image.shape == (3, 6, 4, 1)
    for channel in image:
        np.testing.assert_array_equal(channel[..., 0], pixels.T)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_stand_upright(tmp_path: Path, suffix: str, turn: int) -> None:
    upright = np.zeros((8, 16), np.uint8)
    upright[:4, 8:] = 255  # top right
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[turn]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = turn
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=100)
    assert check_header(path).shape == (16, 8)
    image = read_image(path, 1, 2).numpy()[0, :, :, 0]
    np.testing.assert_allclose(image, upright.T, atol=3)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "series.nii.gz").mkdir()
    with pytest.raises(ImageUnreadable, match="DICOM"):
        check_header(tmp_path / "series.nii.gz")
