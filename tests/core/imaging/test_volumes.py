"""Every file a hospital may hand us, whole and broken."""

import errno
import gzip
import os
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from polyclinic.errors import (
    DiskFull,
    ImageInvalid,
    ImageTooLarge,
    ImageUnreadable,
    LabelInvalid,
    ResourceError,
    ShapeMismatch,
)
from polyclinic.imaging.grids import resample
from polyclinic.imaging.headers import Grid
from polyclinic.imaging.image_files import check_header
from polyclinic.imaging.volumes import read_image, read_label, write_label_map

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 3.0, -20], [0, 1.5, 0, 5], [0, 0, 0, 1]])


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def header_bytes(shape: tuple[int, ...], **fields: object) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    for key, value in fields.items():
        header[key] = value
    return bytes(header.binaryblock) + b"\0\0\0\0"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<f4", ">f8", "<u4"])
def test_reads_what_nibabel_reads(tmp_path: Path, suffix: str, dtype: str) -> None:
    voxels = np.arange(24).reshape(2, 3, 4).astype(dtype)
    image = nib.Nifti1Image(
        voxels, AFFINE, nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    )
    nib.save(image, tmp_path / f"a{suffix}")
    header = check_header(tmp_path / f"a{suffix}")
    assert (
        header.shape == (2, 3, 4) and header.channels == 1 and header.spacing_mm == (2.0, 1.5, 3.0)
    )
    read = read_image(tmp_path / f"a{suffix}", 1, 3)
    assert read.dtype == torch.float32
    np.testing.assert_array_equal(read.numpy()[0], voxels.astype(np.float32))
    np.testing.assert_allclose(read.affine.numpy(), AFFINE)


def test_scales_as_the_header_says(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.linspace(-1, 1, 27).reshape(3, 3, 3), AFFINE)
    image.set_data_dtype(np.int16)  # nibabel then writes slope and intercept
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(
        read_image(tmp_path / "a.nii.gz", 1, 3).numpy()[0],
        nib.load(tmp_path / "a.nii.gz").get_fdata(),
        atol=1e-6,
    )


def test_channels_are_the_last_dimension_or_several_files(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).random((3, 4, 5, 2)).astype(np.float32)
    one = read_image(save(tmp_path / "both.nii.gz", voxels), 2, 3)
    files = [save(tmp_path / f"{n}.nii.gz", voxels[..., n]) for n in range(2)]
    assert one.shape == (2, 3, 4, 5)
    torch.testing.assert_close(one.as_tensor(), read_image(files, 2, 3).as_tensor())
    with pytest.raises(ImageInvalid, match=r"\b2 channel.*\b1\b"):
        read_image(tmp_path / "both.nii.gz", 1, 3)
    other = save(tmp_path / "other.nii.gz", voxels[..., 0], np.eye(4))
    with pytest.raises(ShapeMismatch):
        read_image([files[0], other], 2, 3)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1)])
def test_two_dimensions_are_one_slice(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.nii", np.ones(shape, np.float32))
    assert read_image(path, 1, 2).shape == (1, 6, 4, 1)
    with pytest.raises(ImageInvalid, match=r"2-D.*data=segmentation_2d"):
        read_image(path, 1, 3)


def test_nifti_2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.ones((2, 3, 4), np.uint8), AFFINE), tmp_path / "a.nii.gz")
    header = check_header(tmp_path / "a.nii.gz")
    assert read_image(tmp_path / "a.nii.gz", 1, 3).sum() == 24
    write_label_map(tmp_path / "b.nii.gz", np.ones((2, 3, 4), np.uint8), header)
    assert isinstance(nib.load(tmp_path / "b.nii.gz"), nib.Nifti2Image)


def test_pictures(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.jpg")
    assert check_header(tmp_path / "rgb.png").shape == (7, 5)
    rgb = read_image(tmp_path / "rgb.png", 3, 2)
    assert rgb.shape == (3, 7, 5, 1)
    np.testing.assert_array_equal(rgb.numpy()[:, 6, 2, 0], pixels[2, 6])
    # grey pictures saved as RGB are common
    assert read_image(tmp_path / "rgb.png", 1, 2).shape == (1, 7, 5, 1)
    assert read_image(tmp_path / "grey.png", 3, 2).shape == (3, 7, 5, 1)
    assert read_image(tmp_path / "grey.jpg", 1, 2).shape == (1, 7, 5, 1)
    np.testing.assert_array_equal(
        read_label(tmp_path / "grey.png").numpy()[0, :, :, 0].T, pixels[..., 0]
    )
    with pytest.raises(ImageInvalid, match="channel"):
        read_image(tmp_path / "grey.png", 2, 2)


def test_sixteen_bits_of_grey_are_kept(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1000], [40000, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 1, 2).max() == 65535


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_claims_100_gb(tmp_path: Path, suffix: str) -> None:
    block = header_bytes((30000, 1400, 1300))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(block + bytes(100)) if suffix == ".nii.gz" else block)
    for read in (check_header, read_label, lambda each: read_image(each, 1, 3)):
        with pytest.raises(ImageTooLarge, match="203"):  # GiB as float32
            read(path)


def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb", 9) as stream:
        stream.write(header_bytes((4, 4, 4)))
        for _ in range(64):
            stream.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    assert read_image(path, 1, 3).shape == (1, 4, 4, 4)
    # 1.7 GiB, below the limit, but more than the file can expand to
    claims = header_bytes((1500, 1500, 200))
    path.write_bytes(gzip.compress(claims + bytes(2**16)))
    with pytest.raises(ImageUnreadable, match="truncated"):
        check_header(path)


def test_a_picture_that_claims_too_much(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    blob = bytearray((tmp_path / "a.png").read_bytes())
    for side, error in ((60_000, ImageTooLarge), (12_000, ImageTooLarge)):
        blob[16:24] = struct.pack(">II", side, side)
        blob[29:33] = struct.pack(">I", zlib.crc32(bytes(blob[12:29])))
        (tmp_path / "b.png").write_bytes(blob)
        with pytest.raises(error):
            check_header(tmp_path / "b.png", limit_bytes=2**28)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".png", ".jpg"])
@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, 0.98])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 20)).astype(np.uint8)
    whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    if suffix.startswith(".nii"):
        save(whole, noise)
    else:
        Image.fromarray(noise[0].repeat(8, 0).repeat(8, 1)).save(whole)
    blob = whole.read_bytes()
    part.write_bytes(blob[: keep if isinstance(keep, int) else int(len(blob) * keep)])
    with pytest.raises(ImageUnreadable):
        read_image(part, 1, 2)


def test_a_damaged_gzip_stream(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).random((16, 16, 16)))
    blob = bytearray(path.read_bytes())
    blob[-8] ^= 0xFF  # the checksum
    path.write_bytes(blob)
    with pytest.raises(ImageUnreadable, match="CRC"):
        read_image(path, 1, 3)
    blob[len(blob) // 2] ^= 0xFF
    path.write_bytes(blob)
    with pytest.raises(ImageUnreadable):
        read_image(path, 1, 3)


def nan_affine(block: bytes) -> bytes:
    return block[:280] + struct.pack("<f", float("nan")) + block[284:]


@pytest.mark.parametrize(
    ("blob", "problem"),
    [
        (b"this is not an image at all" * 40, "not a NIfTI"),
        (bytes(1000), "not a NIfTI"),
        (nan_affine(header_bytes((4, 4, 4))) + bytes(128), "not finite"),
        (header_bytes((4, 4, 4), srow_x=[0, 0, 0, 0]) + bytes(128), "inverted"),
        (header_bytes((4, 4, 4), srow_y=[1, 0, 0, 0]) + bytes(128), "inverted"),
        (header_bytes((4, 4, 4), srow_x=[1e9, 0, 0, 0]) + bytes(128), "extent"),
        (header_bytes((4, 4, 4), dim=[3, 4, -4, 4, 1, 1, 1, 1]) + bytes(128), "shape"),
        (header_bytes((4, 4, 4), dim=[3, 4, 0, 4, 1, 1, 1, 1]) + bytes(128), "shape"),
        (header_bytes((4, 4, 4), dim=[5, 4, 1, 4, 2, 2, 1, 1]) + bytes(128), "shape"),
        (header_bytes((4, 4, 4), datatype=128) + bytes(512), "colours"),
        (header_bytes((4, 4, 4), datatype=9999) + bytes(512), "cannot be read"),
        (header_bytes((4, 4, 4), vox_offset=np.nan) + bytes(128), "start"),
        (header_bytes((4, 4, 4), vox_offset=-5) + bytes(128), "start"),
        (header_bytes((4, 4, 4), vox_offset=1e30) + bytes(128), "start"),
        (header_bytes((4, 4, 4), scl_slope=1, scl_inter=np.inf) + bytes(128), "cannot be read"),
    ],
)
def test_an_impossible_header(tmp_path: Path, blob: bytes, problem: str) -> None:
    (tmp_path / "a.nii").write_bytes(blob)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(blob))
    for name in ("a.nii", "a.nii.gz"):
        with pytest.raises(ImageUnreadable, match=problem):
            read_image(tmp_path / name, 1, 3)


def test_random_headers_never_escape_the_error_tree(tmp_path: Path) -> None:
    random, whole = np.random.default_rng(0), header_bytes((4, 4, 4)) + bytes(128)
    for _ in range(300):
        blob = bytearray(whole)
        for place in random.integers(4, 344, 12):
            blob[place] = random.integers(256)
        (tmp_path / "a.nii").write_bytes(blob)
        try:
            read_image(tmp_path / "a.nii", 1, 3)
        except (ImageUnreadable, ImageTooLarge, ImageInvalid):
            continue


def test_no_file_and_no_image(tmp_path: Path) -> None:
    for path in (tmp_path / "none.nii.gz", tmp_path / "a.txt", tmp_path):
        with pytest.raises(ImageUnreadable):
            check_header(path)
    (tmp_path / "fake.nii.gz").write_bytes(header_bytes((4, 4, 4)) + bytes(128))  # not compressed
    with pytest.raises(ImageUnreadable):
        check_header(tmp_path / "fake.nii.gz")


def test_nan_and_infinity(tmp_path: Path) -> None:
    voxels = np.ones((3, 4, 5), np.float32)
    voxels[0, 0, :2], voxels[1, 1, 1] = np.nan, np.inf
    with pytest.raises(ImageInvalid, match="3 of 60"):
        read_image(save(tmp_path / "a.nii.gz", voxels), 1, 3)


def test_labels(tmp_path: Path) -> None:
    voxels = np.arange(24).reshape(2, 3, 4) % 3
    label = read_label(save(tmp_path / "a.nii.gz", voxels.astype(np.float32)), 3)
    assert label.dtype == torch.int32 and label.shape == (1, 2, 3, 4)
    np.testing.assert_array_equal(label.numpy()[0], voxels)
    with pytest.raises(LabelInvalid, match=r"label 2.*dataset\.json.*0, 1"):
        read_label(tmp_path / "a.nii.gz", 2)
    with pytest.raises(LabelInvalid, match=r"0\.5, 1\.5.*whole numbers"):
        read_label(save(tmp_path / "b.nii.gz", np.where(voxels == 1, 0.5, 1.5).astype(np.float32)))
    with pytest.raises(LabelInvalid, match="-1"):
        read_label(save(tmp_path / "c.nii.gz", (voxels - 1).astype(np.int16)), 3)
    with pytest.raises(LabelInvalid, match="nan"):
        read_label(save(tmp_path / "d.nii.gz", np.full((2, 2, 2), np.nan, np.float32)), 3)


def test_a_label_map_keeps_its_inputs_grid_and_codes(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=(4, 5, 6)), AFFINE)
    image.set_sform(AFFINE, 2)
    image.set_qform(AFFINE, 1)
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "in.nii.gz")
    labels = np.random.default_rng(1).integers(0, 4, (4, 5, 6)).astype(np.uint8)
    for name in ("out.nii.gz", "out.nii"):
        write_label_map(tmp_path / "new" / name, labels, check_header(tmp_path / "in.nii.gz"))
        out = nib.load(tmp_path / "new" / name)
        np.testing.assert_array_equal(np.asanyarray(out.dataobj), labels)
        np.testing.assert_array_equal(out.affine, nib.load(tmp_path / "in.nii.gz").affine)
        assert out.get_data_dtype() == np.uint8
        assert (int(out.header["sform_code"]), int(out.header["qform_code"])) == (2, 1)
        np.testing.assert_array_equal(read_label(tmp_path / "new" / name, 4).numpy()[0], labels)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out.nii", "out.nii.gz"]
    with pytest.raises(ValueError, match="shape"):
        write_label_map(tmp_path / "x.nii", labels[1:], check_header(tmp_path / "in.nii.gz"))


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, DiskFull), (errno.EACCES, ResourceError)]
)
def test_a_label_map_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    header = check_header(save(tmp_path / "in.nii.gz", np.zeros((3, 3, 3), np.uint8)))

    def fail(_: int) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error):
        write_label_map(tmp_path / "out" / "a.nii.gz", np.zeros((3, 3, 3), np.uint8), header)
    assert not list((tmp_path / "out").iterdir())


def test_resampling_a_ramp_is_exact_and_returns() -> None:
    source = Grid((6, 8, 10), AFFINE)
    places = np.stack(np.meshgrid(*[np.arange(n) for n in source.shape], indexing="ij"), -1)
    # each voxel's mm
    ramp = torch.from_numpy(places @ AFFINE[:3, :3].T + AFFINE[:3, 3]).float().permute(3, 0, 1, 2)
    # permuted, flipped, finer
    half = np.array([[0, 0, 0.5, 1.25], [-0.5, 0, 0, 4.0], [0, 0.5, 0, 1.0], [0, 0, 0, 1]])
    target = Grid((6, 9, 5), AFFINE @ half)
    moved = resample(ramp, source, target)
    inside = np.stack(np.meshgrid(*[np.arange(n) for n in target.shape], indexing="ij"), -1)
    expected = inside @ target.affine[:3, :3].T + target.affine[:3, 3]
    torch.testing.assert_close(
        moved.permute(1, 2, 3, 0), torch.from_numpy(expected).float(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(resample(ramp, source, source), ramp)
    torch.testing.assert_close(resample(ramp.int(), source, source, nearest=True), ramp.int())


def test_resampling_refuses_oblique_grids_and_wrong_shapes() -> None:
    angle = np.deg2rad(10)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    with pytest.raises(ValueError, match="oblique"):
        resample(torch.zeros(1, 4, 4, 4), Grid((4, 4, 4), np.eye(4)), Grid((4, 4, 4), turn))
    with pytest.raises(ValueError, match="not on"):
        resample(torch.zeros(1, 4, 4, 5), Grid((4, 4, 4), np.eye(4)), Grid((4, 4, 4), np.eye(4)))
