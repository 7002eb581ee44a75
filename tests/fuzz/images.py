"""What a hospital's data folder holds: dataset.json, NIfTI, PNG and JPEG."""

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from polyclinic.errors import (
    DatasetInvalid,
    FileMissing,
    ImageInvalid,
    ImageTooLarge,
    ImageUnreadable,
    LabelInvalid,
)
from polyclinic.imaging.dataset_json import MAX_NAME
from polyclinic.imaging.datasets import read_dataset
from polyclinic.imaging.image_files import check_header
from polyclinic.imaging.volumes import read_image, read_label
from tests.fuzz.mutation import as_json, damaged
from tests.fuzz.reader import Reader

Draw = Callable[[Random], bytes]
LIMIT_BYTES = 2**20  # of an image here
LABELS = 3
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
REGIONS = {
    **DECATHLON,
    "task": "regions",
    "labels": {"background": 0, "whole": [1, 2, 4], "core": [4, 1], "enhancing": 4},
}
FINDINGS = {
    "task": "multilabel",
    "modality": {"0": "DX"},
    "labels": {"0": "effusion", "1": "nodule"},
    "training": [{"image": "i0.nii", "label": ["nodule"], "subject": 7}],
    "validation": [{"image": "i1.nii", "label": {"effusion": 1, "nodule": None}}],
}
NUMBERS = {
    "task": "regression",
    "modality": {"0": "T1"},
    "labels": {"0": "age", "1": "dose"},
    "training": [{"image": "i0.nii", "label": {"age": 63.5, "dose": None}}],
    "validation": [{"image": "i1.nii", "label": {"dose": -2}}],
}


def _fill(folder: Path) -> Path:
    data = folder / "data"
    if not data.exists():
        (data / "imagesTr").mkdir(parents=True)
        for name in ("i0.nii", "i1.nii", "l0.nii", "l1.nii", "imagesTr/i0.nii", "imagesTr/a_0.nii"):
            (data / name).touch()
        (data / "link").symlink_to("/etc")
    return data


def read_listed(content: bytes, folder: Path) -> None:
    data = _fill(folder)
    (data / "dataset.json").write_bytes(content)
    dataset = read_dataset(data, labelled=len(content) % 2 == 0)
    files = [path for case in dataset.cases for path in case.image]
    assert files and all(path.resolve().is_relative_to(data.resolve()) for path in files)
    names = (dataset.name, *dataset.labels, *dataset.modality)
    assert all(name.isprintable() and 0 < len(name) <= MAX_NAME for name in names)
    assert dataset.regions or len(dataset.label_values) in (0, len(dataset.labels))
    assert len(dataset.regions) in (0, len(dataset.labels))
    known = range(len(dataset.label_values))
    assert all(region and set(region) <= set(known) for region in dataset.regions)
    for case in dataset.cases:
        assert not isinstance(case.label, tuple) or len(case.label) == len(dataset.labels)


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
        blob = damaged(whole, random, 4, random.choice((124, 348, 540, len(whole))))
        if not compressed:
            return blob
        packed = gzip.compress(blob, 1, mtime=0)
        return damaged(packed, random) if random.random() < 0.3 else packed

    return draw


def picture_file(kind: str, mode: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 3, (12, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    if mode == "I;16":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16))
    else:
        picture = Image.fromarray(pixels).convert(mode)
    picture.save(content, kind, exif=exif)
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


def damaged_picture(kind: str, mode: str) -> Draw:
    whole = picture_file(kind, mode)

    def draw(random: Random) -> bytes:
        blob = damaged(whole, random, 2)
        return repaired(blob) if kind == "png" and random.random() < 0.8 else blob

    return draw


def image_reader(name: str, suffix: str, sound: bytes, draw: Draw, *channels: int) -> Reader:
    """Make the reader of an image as header, as image and as label map; the last error counts."""

    def read(content: bytes, folder: Path) -> None:
        path = folder / f"a{suffix}"
        path.write_bytes(content)
        check_header(path, LIMIT_BYTES)
        found = read_image(path, channels[len(content) % len(channels)], 2, LIMIT_BYTES)
        assert bool(found.isfinite().all())

    return Reader(
        name, sound, draw, read, (ImageUnreadable, ImageTooLarge, ImageInvalid), 8 * LIMIT_BYTES
    )


def label_reader(name: str, suffix: str, sound: bytes, draw: Draw) -> Reader:
    def read(content: bytes, folder: Path) -> None:
        path = folder / f"a{suffix}"
        path.write_bytes(content)
        for values in ((), (0, 1, 2)):
            found = read_label(path, LABELS, LIMIT_BYTES, values=values)
            assert 0 <= int(found.min()) <= int(found.max()) < LABELS

    errors = (ImageUnreadable, ImageTooLarge, ImageInvalid, LabelInvalid)
    return Reader(name, sound, draw, read, errors, 8 * LIMIT_BYTES)


def _listing(name: str, tree: dict[str, Any]) -> Reader:
    return Reader(
        name,
        json.dumps(tree).encode(),
        lambda random: as_json(tree, random),
        read_listed,
        (DatasetInvalid, FileMissing),
    )


NIFTI = {
    "nifti-1": (".nii", nifti_file(1), damaged_nifti(1, compressed=False)),
    "nifti-1-gz": (".nii.gz", gzip.compress(nifti_file(1)), damaged_nifti(1, compressed=True)),
    "nifti-2": (".nii", nifti_file(2), damaged_nifti(2, compressed=False)),
}
PICTURES = {
    "png-grey": ("png", "L", 1),
    "png-palette": ("png", "P", 3),
    "png-alpha": ("png", "RGBA", 3),
    "png-16-bits": ("png", "I;16", 1),
    "jpeg": ("jpeg", "RGB", 3),
    "jpeg-cmyk": ("jpeg", "CMYK", 3),
}
READERS = (
    _listing("dataset-decathlon", DECATHLON),
    _listing("dataset-nnunet", NNUNET),
    _listing("dataset-regions", REGIONS),
    _listing("dataset-findings", FINDINGS),
    _listing("dataset-regression", NUMBERS),
    *(image_reader(name, *parts, 1) for name, parts in NIFTI.items()),
    *(label_reader(f"{name}-label", *parts) for name, parts in NIFTI.items()),
    *(
        image_reader(
            name,
            f".{kind[:3].replace('jpe', 'jpg')}",
            picture_file(kind, mode),
            damaged_picture(kind, mode),
            channels,
        )
        for name, (kind, mode, channels) in PICTURES.items()
    ),
    label_reader("png-label", ".png", picture_file("png", "L"), damaged_picture("png", "L")),
)
