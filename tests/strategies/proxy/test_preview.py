from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from polyclinic.imaging.pictures import label_colours
from polyclinic_strategies.proxy.preview import BRIGHTER, DARKER, write_preview

LABELS = ("background", "fluid", "tissue")


def scene() -> tuple[MetaTensor, np.ndarray, np.ndarray, np.ndarray]:
    """Make a ball, whose left half is label 2.

    The original is stored front to back, in slices of 3 mm.
    """
    places = np.indices((24, 28, 24)) - np.array([12, 14, 12]).reshape(3, 1, 1, 1)
    ball = (places**2).sum(0) < 100
    proxy = np.where(ball, 180, 0).astype(np.uint8)
    answer = np.where(ball, np.where(places[0] < 0, 2, 1), 0).astype(np.uint8)
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("PSR")
    )
    native = nib.orientations.apply_orientation(answer[:, :, ::3], turn)
    affine = np.diag([1.0, 1.0, 3.0, 1.0]) @ nib.orientations.inv_ornt_aff(
        turn, answer[:, :, ::3].shape
    )
    volume = torch.from_numpy(np.ascontiguousarray(native > 0)).float()[None] * 700
    original = MetaTensor(volume, affine=torch.from_numpy(affine))
    return original, proxy, answer, np.ascontiguousarray(native)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def has(picture: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return bool((picture == wanted).all(-1).any())


def test_five_panels_and_a_legend(tmp_path: Path) -> None:
    original, proxy, answer, label_map = scene()
    canonical = np.roll(proxy, 3, axis=0)
    write_preview(
        tmp_path / "new" / "preview.png",
        original,
        proxy,
        answer,
        label_map,
        LABELS,
        canonical,
    )
    shown = pixels(tmp_path / "new" / "preview.png")
    assert 1200 <= shown.shape[1] <= 1600 and 300 < shown.shape[0] < 500
    assert (shown[0] == 255).all() and (shown[:, 0] == 255).all()  # white paper
    assert all(has(shown, colour) for colour in (*label_colours(LABELS).values(), BRIGHTER, DARKER))
    write_preview(
        tmp_path / "again.png",
        original,
        proxy,
        answer,
        label_map,
        LABELS,
        canonical,
    )
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "new" / "preview.png").read_bytes()


def test_original_and_proxy_are_seen_from_the_same_side(tmp_path: Path) -> None:
    original, proxy, answer, label_map = scene()
    write_preview(
        tmp_path / "preview.png",
        original,
        proxy,
        answer,
        label_map,
        LABELS,
    )
    shown = pixels(tmp_path / "preview.png")
    assert shown.shape[1] < 1200 and not has(shown, BRIGHTER)
    half = shown[shown.shape[0] // 2]  # one row through both halves of all four panels
    fluid, tissue = (
        (
            np.abs(
                half
                - (
                    0.55 * np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
                    + 0.45 * grey
                )
            ).max(-1)
            < 3
        ).nonzero()[0]
        for grey, colour in zip((180, 180), label_colours(LABELS).values(), strict=True)
    )
    # the patient's right is on the left
    assert len(fluid) and len(tissue) and fluid.mean() < tissue.mean()
    colours = (half.max(-1) - half.min(-1)) > 20
    assert colours[: shown.shape[1] // 2].sum() == 0 and colours[shown.shape[1] // 2 :].sum() > 200


def test_probabilities_show_as_their_labels(tmp_path: Path) -> None:
    original, proxy, answer, label_map = scene()
    likely = np.stack([np.where(answer == number, 200, 20) for number in (1, 2)]).astype(np.uint8)
    for name, each in (("labels", answer), ("probabilities", likely)):
        write_preview(
            tmp_path / f"{name}.png",
            original,
            proxy,
            each,
            label_map,
            LABELS,
        )
    assert (tmp_path / "labels.png").read_bytes() == (tmp_path / "probabilities.png").read_bytes()


def test_arrays_of_another_size_are_refused(tmp_path: Path) -> None:
    original, proxy, answer, label_map = scene()
    with pytest.raises(ValueError, match="grid"):
        write_preview(
            tmp_path / "a.png",
            original,
            proxy,
            answer[1:],
            label_map,
            LABELS,
        )
    with pytest.raises(ValueError, match="grid"):
        write_preview(
            tmp_path / "a.png",
            original,
            proxy,
            answer,
            label_map[1:],
            LABELS,
        )
    with pytest.raises(ValueError, match="grid"):
        write_preview(
            tmp_path / "a.png",
            original,
            proxy,
            answer,
            label_map,
            LABELS,
            proxy[1:],
        )
