"""One person in two scanners becomes one image; labels go there and back.

What is no brain is refused.
"""

from dataclasses import replace
from functools import lru_cache

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from polyclinic.imaging.deformation import exponentiate, identity, sample, upsample
from polyclinic_demos.cohorts.anatomy import subject
from polyclinic_demos.cohorts.hospitals import HOSPITALS
from polyclinic_demos.cohorts.scanner import Scan, acquire
from polyclinic_strategies.proxy.frame.atlas import BRAIN, icbm152_reference, reference_from
from polyclinic_strategies.proxy.frame.canonical import Canonical, ScanNotRecognized, canonicalize
from polyclinic_strategies.proxy.frame.frames import transform
from polyclinic_strategies.proxy.frame.icbm152 import icbm152

REFERENCE = icbm152_reference(2.0)


@lru_cache(maxsize=4)
def scan(hospital: int, voxel_mm: tuple[float, float, float] = (4.0, 4.0, 5.0)) -> Scan:
    return acquire(subject(1), replace(HOSPITALS[hospital], voxel_mm=voxel_mm), seed=hospital)


@lru_cache(maxsize=4)
def canonical(hospital: int) -> Canonical:
    return canonicalize(volume_of(scan(hospital)), REFERENCE)


def volume_of(scanned: Scan) -> MetaTensor:
    return MetaTensor(
        torch.from_numpy(scanned.image.astype(np.float32))[None],
        affine=torch.from_numpy(scanned.affine),
    )


def masks(frame: Canonical, scanned: Scan) -> torch.Tensor:
    """Return the scan's labels in the canonical frame, (3, H, W, D)."""
    points = transform(frame.to_native, identity(frame.reference.shape))
    hot = torch.stack(
        [torch.from_numpy((scanned.label_map == number).astype(np.float32)) for number in (1, 2, 3)]
    )
    return sample(hot[None], points)[0]


def dice(one: np.ndarray, other: np.ndarray, number: int) -> float:
    return float(
        2
        * ((one == number) & (other == number)).sum()
        / ((one == number).sum() + (other == number).sum())
    )


def apart_mm(one: np.ndarray, other: np.ndarray) -> float:
    """How far apart two ways from the canonical frame into the world lie at most, over the
    reference's brain.
    """
    places = identity(REFERENCE.shape)[:, :, REFERENCE.brain]
    return float((transform(one, places) - transform(other, places)).norm(dim=1).max())


def test_one_person_in_two_scanners_becomes_one_image() -> None:
    one, other = canonical(0), canonical(1)
    assert nib.aff2axcodes(scan(0).affine) != nib.aff2axcodes(scan(1).affine)
    images = torch.stack([each.image()[REFERENCE.brain] for each in (one, other)])
    assert float(torch.corrcoef(images)[0, 1]) > 0.9
    labels = [
        masks(each, scan(hospital)).argmax(0).numpy() for each, hospital in ((one, 0), (other, 1))
    ]
    inside = REFERENCE.brain.numpy()
    assert min(dice(labels[0][inside], labels[1][inside], number) for number in (1, 2)) > 0.8
    world = [scan(hospital).affine @ each.to_native for each, hospital in ((one, 0), (other, 1))]
    assert apart_mm(*world) < 1.5


def test_a_known_motion_is_recovered() -> None:
    angle = np.deg2rad(18)
    motion = np.array(
        [
            [1.08, 0, 0, 25],
            [0, 0.92 * np.cos(angle), -np.sin(angle), -30],
            [0, 0.92 * np.sin(angle), np.cos(angle), 12],
            [0, 0, 0, 1],
        ]
    )
    moved = canonicalize(volume_of(replace(scan(0), affine=motion @ scan(0).affine)), REFERENCE)
    assert (
        apart_mm(
            motion @ scan(0).affine @ canonical(0).to_native,
            motion @ scan(0).affine @ moved.to_native,
        )
        < 1.0
    )


def test_a_cut_field_of_view_changes_little() -> None:
    whole = scan(0)
    cut = Scan(
        whole.image[:, 10:],
        whole.label_map[:, 10:],
        whole.affine @ np.array(nib.affines.from_matvec(np.eye(3), [0, 10, 0])),
    )
    found = canonicalize(volume_of(cut), REFERENCE)
    assert found.fit.seen < 0.9
    assert apart_mm(whole.affine @ canonical(0).to_native, cut.affine @ found.to_native) < 3.0
    # air where nothing was seen
    assert float((found.image() == 0).float().mean()) > float(
        (canonical(0).image() == 0).float().mean()
    )


def test_the_histogram_is_the_references() -> None:
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    wanted = torch.quantile(REFERENCE.image[REFERENCE.brain], shares)
    for hospital in (0, 1):
        image = canonical(hospital).image()
        assert_close(torch.quantile(image[image > BRAIN], shares), wanted, atol=0.03, rtol=0.0)
        assert float(image.min()) >= 0.0 and float(image.max()) <= 1.0
        assert float((image[:2] > 0).float().mean()) < 0.02  # the air's noise is gone


def test_labels_go_there_and_back() -> None:
    frame, scanned = canonical(1), scan(1)
    there = masks(frame, scanned)
    best, number = there.max(0)
    whole = torch.where(best > 1 - there.sum(0), number + 1, 0).to(torch.uint8)
    bytewise = (there * 255).round().to(torch.uint8)
    for back in (
        frame.label_map(there),
        frame.label_map(bytewise, whole=255.0),
        frame.label_map(whole),
    ):
        assert back.shape == scanned.label_map.shape and back.dtype == np.uint8
        assert min(dice(back, scanned.label_map, number) for number in (1, 2, 3)) > 0.95
    assert not frame.label_map(torch.zeros_like(whole)).any()


def test_a_warp_is_read_and_undone_in_one_interpolation_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame, scanned = canonical(1), scan(1)
    coarse = torch.randn(1, 3, 10, 12, 10, generator=torch.Generator().manual_seed(0))
    velocity = upsample(coarse * 0.5, (40, 48, 40))
    ddf, inverse = exponentiate(velocity), exponentiate(-velocity)
    fine = upsample(ddf, REFERENCE.shape)
    proxy = frame.image(fine)
    native = transform(frame.to_native, identity(REFERENCE.shape) + fine)
    expected = frame.intensities(sample(frame.volume[None, None], native)[0, 0])
    assert_close(proxy[REFERENCE.brain], expected[REFERENCE.brain], atol=1e-4, rtol=0.0)
    hot = torch.stack(
        [torch.from_numpy((scanned.label_map == number).astype(np.float32)) for number in (1, 2, 3)]
    )
    answer = sample(hot[None], native)[0]
    back = frame.label_map(answer, inverse)
    assert min(dice(back, scanned.label_map, number) for number in (2, 3)) > 0.95
    assert (
        dice(frame.label_map(answer), scanned.label_map, 3)
        < dice(back, scanned.label_map, 3) - 0.03
    )
    monkeypatch.setattr("polyclinic_strategies.proxy.frame.frames.SLAB", 20_000)
    np.testing.assert_array_equal(frame.label_map(answer, inverse), back)
    assert_close(frame.image(fine), proxy)


def test_coordinates_are_the_inverse_of_the_way_to_the_scan() -> None:
    frame = canonical(0)
    found = transform(frame.to_native, frame.coordinates(slice(3, 5)))
    wanted = identity((2, *frame.volume.shape[1:]))
    wanted[:, 0] += 3
    assert_close(found, wanted, atol=1e-3, rtol=0.0)
    assert frame.label_map(torch.ones(REFERENCE.shape)).shape == frame.volume.shape


def test_twice_is_the_same() -> None:
    again = canonicalize(volume_of(scan(0)), REFERENCE)
    np.testing.assert_array_equal(again.to_native, canonical(0).to_native)
    assert_close(again.image(), canonical(0).image(), atol=0.0, rtol=0.0)


def test_the_atlas_knows_its_grids() -> None:
    assert REFERENCE.shape == (80, 96, 80)
    fine = REFERENCE.grid(2)
    assert fine.shape == (160, 192, 160)
    corner = np.array([-0.5, -0.5, -0.5, 1.0])  # a face of both
    np.testing.assert_allclose(fine.affine @ corner, REFERENCE.affine @ corner)
    inside = REFERENCE.brain.nonzero()
    assert_close(inside.amin(0) + inside.amax(0), torch.tensor(REFERENCE.shape) - 1, atol=2, rtol=0)
    assert 0.95 < float(REFERENCE.image.max()) <= 1.0 and not float(REFERENCE.image[0].max())
    other = replace(REFERENCE, affine=REFERENCE.affine + np.eye(4) * 0.1)
    assert (
        len(
            {REFERENCE.digest, replace(REFERENCE, image=REFERENCE.image * 0.5).digest, other.digest}
        )
        == 3
    )
    with pytest.raises(ValueError, match="finer"):
        REFERENCE.grid(0)


def test_another_spacing_shows_the_same_brain() -> None:
    coarse = reference_from(icbm152(), spacing_mm=4.0)
    pooled = torch.nn.functional.avg_pool3d(REFERENCE.image[None], 2)[0]
    assert (
        float(torch.corrcoef(torch.stack([coarse.image.flatten(), pooled.flatten()]))[0, 1]) > 0.99
    )


def not_a_brain(kind: str) -> MetaTensor:
    whole = scan(0)
    size = whole.image.size
    affines = {
        "on its head": [1.0, 1.0, -1.0, 1.0],
        "back to front": [1.0, -1.0, 1.0, 1.0],
        "a giant": [2.0, 2.0, 2.0, 1.0],
    }
    voxels = {
        "empty": np.zeros(size),
        "one voxel": np.arange(size) == size // 2,
        "noise": np.random.default_rng(0).integers(0, 900, size),
        "a ball": (((np.indices(whole.image.shape).T - np.array(whole.image.shape) / 2) / 15) ** 2)
        .sum(-1)
        .T
        < 1,
    }
    if kind == "a T2 scan":
        return volume_of(scan(4))
    if kind in affines:
        return volume_of(replace(whole, affine=np.diag(affines[kind]) @ whole.affine))
    return volume_of(replace(whole, image=voxels[kind].reshape(whole.image.shape).astype(np.int16)))


@pytest.mark.parametrize(
    "kind",
    [
        "on its head",
        "back to front",
        "a T2 scan",
        "empty",
        "one voxel",
        "noise",
        "a giant",
        "a ball",
    ],
)
def test_what_is_no_brain_is_refused_with_a_remedy(kind: str) -> None:
    with pytest.raises(ScanNotRecognized, match=r"skull.*header"):
        canonicalize(not_a_brain(kind), REFERENCE)


def test_a_scan_has_one_channel() -> None:
    with pytest.raises(ValueError, match="1, X, Y, Z"):
        canonicalize(MetaTensor(torch.zeros(2, 8, 8, 8), affine=torch.eye(4)), REFERENCE)
