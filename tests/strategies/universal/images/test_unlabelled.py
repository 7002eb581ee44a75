"""A folder of images without labels becomes one tensor."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError, ImageUnreadable
from polyclinic.learning.crops import as_batch
from polyclinic_strategies.universal.images.unlabelled import SLICES, find_images, read_images

DATA = DataConfig("own", 3, (), "LPS", None, (8, 8), 1, 1.0, (), ())


def picture(path: Path, *shape: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, np.uint8)).save(path)
    return path


def volume(path: Path, *shape: int) -> Path:
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), np.eye(4)),
        path,
    )
    return path


def test_all_images_are_found_in_order_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a/1.jpg", "0.png"):
        picture(tmp_path / name.lower(), 8, 8)
    (tmp_path / "b" / "2.png").rename(tmp_path / "b" / "2.PNG")
    volume(tmp_path / "c.nii.gz", 4, 4, 4)
    (tmp_path / "notes.txt").write_text("no image")
    picture(tmp_path / ".hidden.png", 8, 8)
    assert [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)] == [
        "0.png",
        "a/1.jpg",
        "b/2.PNG",
        "c.nii.gz",
    ]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="no image there"):
            find_images(folder)


def test_pictures_are_resized_and_one_channel_is_repeated(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    paths = [picture(tmp_path / "grey.png", 12, 20), picture(tmp_path / "colour.png", 8, 8, 3)]
    images = read_images(paths, DATA, lambda done, of: told.append((done, of)))
    assert images.shape == (2, 3, 8, 8) and images.dtype == torch.float32
    assert torch.equal(images[0, 0], images[0, 1]) and not torch.equal(images[1, 0], images[1, 1])
    assert told == [(1, 2), (2, 2)]


def test_of_a_volume_a_few_slices_are_read_or_all_of_it(tmp_path: Path) -> None:
    path = volume(tmp_path / "v.nii.gz", 8, 8, 30)
    images = read_images([path], DATA)
    assert images.shape == (SLICES, 3, 8, 8) and torch.equal(images[:, 0], images[:, 2])
    assert read_images([volume(tmp_path / "thin.nii.gz", 8, 8, 3)], DATA).shape[0] == 3
    whole = read_images([path], replace(DATA, channels=1, patch=(8, 8, 8)))
    assert whole.shape == (1, 1, 8, 8, 8)


def test_the_slices_are_of_the_middle_two_thirds() -> None:
    numbered = torch.arange(30.0).expand(1, 8, 8, 30)
    found = as_batch(numbered, DATA, SLICES)[:, 0, 0, 0].tolist()
    assert len(found) == SLICES and found[0] == 5 and found[-1] == 24 and found == sorted(found)
    assert len(as_batch(numbered, DATA)) == 30


def test_a_batch_is_cut_about_the_middle() -> None:
    image = torch.zeros(1, 12, 8, 1)
    image[:, 2:10] = 1
    assert bool((as_batch(image, DATA) == 1).all())


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"hello")
    with pytest.raises(ImageUnreadable, match=r"bad\.png"):
        read_images([tmp_path / "bad.png"], DATA)
