"""Thousands of damaged files for every reader: the documented errors alone, and bounded memory.

Every file is drawn from a seed, so a run draws the same ones. `POLYCLINIC_FUZZ=100` draws a hundred
times as many.
"""

import gzip
import io
import json
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from polyclinic.errors import (
    DataError,
    DatasetInvalid,
    FileMissing,
    ImageInvalid,
    ImageTooLarge,
    ImageUnreadable,
    LabelInvalid,
)
from polyclinic.imaging import nifti
from polyclinic.imaging.dataset_json import MAX_NAME
from polyclinic.imaging.datasets import read_dataset
from polyclinic.imaging.image_files import check_header
from polyclinic.imaging.volumes import read_image, read_label

TIMES = int(os.environ.get("POLYCLINIC_FUZZ", "1"))
LIMIT_BYTES = 2**20  # of an image here
SLACK_BYTES = 3 * 2**20  # of what a reader takes besides
Random = np.random.Generator
Draw = Callable[[Random], bytes]

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 255, 2**31, 10**40, 0.5, float("nan"), float("inf"), -0.0),
    *("", " ", "0", "1", "\0", "\x1b[2J", "\ud800", "ü", "a" * 300, "i0.nii", "..", "/", "~"),
    *("../i0.nii", "/etc/hostname", "C:\\i0.nii", "imagesTr\\i0.nii", ".", "i0.nii/x", "link"),
    *([], {}, [[]], [None], [{}], {"": ""}, {"0": "a"}, {"a": 0}, {"0": 0}, ["i0.nii"]),
    *({"image": "i0.nii"}, {"image": []}, {"image": {}, "label": {}}, [{"image": "i0.nii"}] * 3),
]
KEYS = [
    *("name", "modality", "channel_names", "labels", "training", "validation", "test", "image"),
    *("label", "subject", "excluded", "dataset", "images", "file_ending", "0", "1", "background"),
]


@contextmanager
def bounded(limit_bytes: int) -> Iterator[None]:
    """Fail if more memory is taken than that, at any time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= limit_bytes, f"{peak:,} bytes"


def pick(random: Random, values: list[Any]) -> Any:
    return values[random.integers(len(values))]


def changed(tree: Any, random: Random) -> Any:
    """Change some places of a tree of plain values."""
    if random.random() < 0.06:
        return pick(random, VALUES)
    if isinstance(tree, dict):
        table = {key: changed(value, random) for key, value in tree.items()}
        if table and random.random() < 0.1:
            table.pop(pick(random, list(table)))
        if random.random() < 0.15:
            table[pick(random, KEYS)] = pick(random, VALUES)
        return table
    return [changed(value, random) for value in tree] if isinstance(tree, list) else tree


def damaged(blob: bytes, random: Random, first: int = 0, last: int | None = None) -> bytes:
    """Change a few bytes, or cut or repeat a part."""
    content = bytearray(blob)
    end = min(len(content), last or len(content))
    for _ in range(random.integers(0, 10)):
        content[random.integers(first, end)] = pick(random, [0, 1, 127, 128, 255, *range(256)])
    if random.random() < 0.15:
        content = content[: random.integers(len(content))]
    if content and random.random() < 0.1:
        place = int(random.integers(len(content)))
        content[place:place] = content[place : place + int(random.integers(64))]
    return bytes(content)


DECATHLON = {
    "name": "north",
    "modality": {"0": "T1"},
    "labels": {"0": "background", "1": "tumour"},
    "training": [{"image": f"i{n}.nii", "label": f"l{n}.nii", "subject": "a"} for n in (0, 1)],
    "validation": [{"image": ["i1.nii"], "label": "l1.nii"}],
    "test": ["i0.nii", {"image": "i1.nii", "label": "l1.nii"}],
    "excluded": ["i2.nii"],
}
NNUNET = {
    "channel_names": {"0": "T2"},
    "labels": {"background": 0, "PZ": 1, "TZ": 4},
    "file_ending": ".nii",
    "dataset": {
        name: {"images": [f"i{n}.nii"], "label": f"l{n}.nii"} for n, name in enumerate("ab")
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("i0.nii", "i1.nii", "l0.nii", "l1.nii"):
        (tmp_path / name).touch()
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "i0.nii").touch()
    (tmp_path / "imagesTr" / "a_0000.nii").touch()
    (tmp_path / "link").symlink_to("/etc")
    return tmp_path


@pytest.mark.parametrize("tree", [DECATHLON, NNUNET], ids=["decathlon", "nnunet"])
def test_a_damaged_dataset_json(folder: Path, tree: dict[str, Any]) -> None:
    random = np.random.default_rng(1)
    read = 0
    for _ in range(300 * TIMES):
        text = json.dumps(changed(tree, random)).encode()
        if random.random() < 0.3:
            text = damaged(text, random)
        (folder / "dataset.json").write_bytes(text)
        try:
            with bounded(2**22):
                dataset = read_dataset(folder, labelled=random.random() < 0.5)
        except (DatasetInvalid, FileMissing) as error:
            assert len(str(error)) < 10_000
            continue
        read += 1
        files = [path for case in dataset.cases for path in case.image]
        assert files and all(path.resolve().is_relative_to(folder) for path in files)
        names = (dataset.name, *dataset.labels, *dataset.modality)
        assert all(name.isprintable() and 0 < len(name) <= MAX_NAME for name in names)
        assert len(dataset.label_values) in (0, len(dataset.labels))
    assert read > 20  # some of them are still right


def test_a_deep_and_a_wide_dataset_json(folder: Path) -> None:
    texts = ["[" * 10**5, '{"a":' * 10**5, '{"training": [' + "[]," * 10**5 + "[]]}"]
    for text in texts:
        (folder / "dataset.json").write_text(text)
        with pytest.raises(DatasetInvalid), bounded(2**26):
            read_dataset(folder)


def nifti_file(version: int) -> bytes:
    voxels = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4) % 3
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    image = kind(voxels, np.diag([2.0, 2, 2, 1]))
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    content: bytes = image.to_bytes()
    return content


def damaged_nifti(version: int, *, compressed: bool) -> Draw:
    whole = nifti_file(version)

    def draw(random: Random) -> bytes:
        # the header's few fields, and not its texts
        blob = damaged(whole, random, 4, pick(random, [124, 348, 540, len(whole)]))
        if not compressed:
            return blob
        packed = gzip.compress(blob, 1)
        return damaged(packed, random) if random.random() < 0.3 else packed

    return draw


def picture_file(suffix: str, mode: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    if mode == "I;16":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
    else:
        picture = Image.fromarray(pixels).convert(mode)
    picture.save(content, "png" if suffix == ".png" else "jpeg", exif=exif)
    return content.getvalue()


def repaired(blob: bytes) -> bytes:
    """Correct the checksums of a PNG's chunks, so that what they hold is read."""
    content, place = bytearray(blob), 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(content):
            break
        content[end : end + 4] = struct.pack(">I", zlib.crc32(content[place + 4 : end]))
        place = end + 4
    return bytes(content)


def damaged_picture(suffix: str, mode: str) -> Draw:
    whole = picture_file(suffix, mode)

    def draw(random: Random) -> bytes:
        blob = damaged(whole, random, 2)
        return repaired(blob) if suffix == ".png" and random.random() < 0.8 else blob

    return draw


IMAGES = {
    "nifti-1": (".nii", damaged_nifti(1, compressed=False)),
    "nifti-1.gz": (".nii.gz", damaged_nifti(1, compressed=True)),
    "nifti-2": (".nii", damaged_nifti(2, compressed=False)),
    "png grey": (".png", damaged_picture(".png", "L")),
    "png palette": (".png", damaged_picture(".png", "P")),
    "png alpha": (".png", damaged_picture(".png", "RGBA")),
    "png 16 bits": (".png", damaged_picture(".png", "I;16")),
    "jpeg": (".jpg", damaged_picture(".jpg", "RGB")),
    "jpeg cmyk": (".jpg", damaged_picture(".jpg", "CMYK")),
}


def readers_of(path: Path, channels: int) -> list[Callable[[], Any]]:
    return [
        lambda: check_header(path, LIMIT_BYTES),
        lambda: read_image(path, channels, 2, LIMIT_BYTES, nan_as_zero=channels == 2),
        lambda: read_label(path, 3, LIMIT_BYTES),
        lambda: read_label(path, 3, LIMIT_BYTES, values=(0, 1, 4)),
    ]


@pytest.mark.parametrize("kind", IMAGES)
def test_a_damaged_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    suffix, draw = IMAGES[kind]
    monkeypatch.setattr(nifti, "BLOCK", 2**14)
    path = tmp_path / f"a{suffix}"
    random = np.random.default_rng(2)
    documented = (ImageUnreadable, ImageTooLarge, ImageInvalid, LabelInvalid)
    read, refused = 0, 0
    for _ in range(50 * TIMES):
        path.write_bytes(draw(random))
        channels = int(random.integers(1, 4))
        readers = readers_of(path, channels)
        for reader in readers:
            try:
                with bounded(LIMIT_BYTES + SLACK_BYTES):
                    found = reader()
            except DataError as error:
                assert isinstance(error, documented) and len(str(error)) < 2000
                refused += 1
                continue
            read += 1
            if reader is readers[1]:
                assert bool(found.isfinite().all()) and found.shape[0] == channels
            elif reader is not readers[0]:
                assert 0 <= int(found.min()) <= int(found.max()) <= 2
    assert read > 20 and refused > 20
