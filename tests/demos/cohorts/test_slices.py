"""Slices of a brain on a simulated scanner: geometry, tissues, artefacts."""

from dataclasses import replace

import numpy as np
import pytest

from polyclinic_demos.cohorts.anatomy import subject
from polyclinic_demos.cohorts.slices import (
    FINE,
    PLANES,
    Exposure,
    View,
    develop,
    draw_exposure,
    label_map,
    look,
    plane_axes,
    pool,
    signal_of,
    turned,
)
from polyclinic_demos.cohorts.task_images import BRAIN_TASKS, deformed, draw_brains

CLEAN = Exposure("T1", (0.3, 0.7, 1.0), bias=0.0, noise=0.0, blur_mm=0.0, texture=0.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("plane", PLANES)
def test_axes_are_as_on_a_screen(plane: str) -> None:
    axes = plane_axes(View(plane, (0, 0, 0), 100.0, tilt_degrees=0.0), rng())
    np.testing.assert_allclose(axes[:, :2].T, PLANES[plane])
    turned_axes = plane_axes(View(plane, (0, 0, 0), 100.0, tilt_degrees=10.0), rng())
    np.testing.assert_allclose(turned_axes.T @ turned_axes, np.eye(3), atol=1e-12)
    assert not np.allclose(turned_axes, axes)


def test_the_centre_of_a_view_is_in_the_middle() -> None:
    place = (12.0, -20.0, 8.0)
    far, near = (
        pool(look(subject(0), View("axial", place, extent, 0.0), 32, rng()))
        for extent in (192.0, 96.0)
    )
    middle = far[:, 8:24, 8:24]  # the same 96 mm, half as fine
    coarse = near.reshape(3, 16, 2, 16, 2).mean((2, 4))
    assert np.corrcoef(middle.ravel(), coarse.ravel())[0, 1] > 0.95
    # two pixels aside
    assert np.corrcoef(middle[:, 2:].ravel(), coarse[:, :-2].ravel())[0, 1] < 0.9


def test_a_pose_moves_the_place_and_a_slice_still_finds_it() -> None:
    person = subject(1)
    still = replace(person, displacement_mm=person.displacement_mm * 0)
    moved = still.pose.copy()
    moved[:3, 3] += (15.0, -10.0, 20.0)
    view = View("coronal", (0.0, -18.0, 8.0), 180.0, 0.0)
    here, there = (look(replace(still, pose=pose), view, 32, rng()) for pose in (still.pose, moved))
    np.testing.assert_allclose(here, there, atol=0.02)


@pytest.mark.parametrize("task", ["tissue", "position", "warp", "contrast"])
def test_a_whole_brain_fits(task: str) -> None:
    for drawn in draw_brains(task, 5, "training", 12, 48):
        edge = np.concatenate(
            [drawn.pixels[0], drawn.pixels[-1], drawn.pixels[:, 0], drawn.pixels[:, -1]]
        )
        assert np.median(edge) < 0.5 * np.median(drawn.pixels[16:32, 16:32])


def test_pooling_averages_and_the_most_probable_tissue_is_named() -> None:
    fine = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_allclose(pool(fine), [[2.5, 4.5], [10.5, 12.5]])
    tissues = np.zeros((3, 1, 4), np.float32)
    tissues[:, 0, 1], tissues[:, 0, 2], tissues[:, 0, 3] = (
        (0.6, 0.2, 0.2),
        (0.1, 0.2, 0.3),
        (0.0, 0.3, 0.6),
    )
    assert label_map(tissues).tolist() == [[0, 1, 0, 3]]


def test_a_clean_exposure_keeps_the_order_of_the_tissues() -> None:
    tissues = np.repeat(np.eye(3, dtype=np.float32)[:, None], 4 * FINE, axis=1).repeat(
        4 * FINE, axis=2
    )
    image = develop(pool(signal_of(tissues, CLEAN)), CLEAN, 1.0, rng())
    values = image[0, ::4].astype(float)
    np.testing.assert_allclose(values / values[2], (0.3, 0.7, 1.0), atol=0.01)


@pytest.mark.parametrize(
    ("family", "order"),
    [("T1", (0, 1, 2)), ("T2", (2, 1, 0)), ("FLAIR", (0, 2, 1)), ("PD", (2, 0, 1))],
)
def test_families_differ_in_the_order_of_the_tissues(
    family: str, order: tuple[int, int, int]
) -> None:
    drawn = np.array([draw_exposure(rng(seed), family).contrast for seed in range(30)])
    assert tuple(np.argsort(drawn.mean(0))) == order
    assert drawn.std(0).min() > 0.005


def test_ghosts_noise_and_shading_do_what_they_are_named_for() -> None:
    signal = np.zeros((64, 64), np.float32)
    signal[20:44, 20:44] = 1
    images = {
        name: develop(signal, replace(CLEAN, **change), 3.0, rng()).astype(float)
        for name, change in (
            ("clean", {}),
            ("ghost", {"ghost": 0.8}),
            ("noise", {"noise": 0.15}),
            ("bias", {"bias": 1.0}),
        )
    }
    inside = {
        name: image[22:42, 22:42] / np.median(image[22:42, 22:42]) for name, image in images.items()
    }
    outside = {
        name: float(np.delete(image, slice(18, 46), 0).mean()) for name, image in images.items()
    }
    assert outside["clean"] == outside["bias"] == 0 and inside["clean"].std() == 0
    assert (
        max(images["ghost"][:8].max(), images["ghost"][:, :8].max()) > 10 and outside["noise"] > 10
    )
    slow = inside["bias"]
    assert (
        slow.std() > 0.05
        and np.abs(np.diff(slow, axis=0)).mean()
        < 0.2 * slow.std()
        < np.abs(np.diff(inside["noise"], axis=0)).mean()
    )


def test_turning_gives_all_eight_ways_to_lie() -> None:
    image = np.arange(9, dtype=np.uint8).reshape(3, 3)
    ways = {turned(image, rng(seed)).tobytes() for seed in range(100)}
    assert len(ways) == 8 and all(sorted(way) == list(range(9)) for way in ways)


@pytest.mark.parametrize("rms_mm", [1.5, 4.5, 8.0])
def test_a_deformation_is_as_large_as_asked(rms_mm: float) -> None:
    found = deformed(subject(2), rms_mm, rng()).displacement_mm.square().sum(0).mean().sqrt()
    assert float(found) == pytest.approx(rms_mm, rel=0.1)


def test_lesions_are_where_the_map_says() -> None:
    for drawn in draw_brains("lesion-map", 0, "training", 6, 64):
        lesion = np.asarray(drawn.label) == 1
        grown = (
            np.array([np.roll(lesion, shift, axis) for shift in (-3, 3) for axis in (0, 1)]).any(0)
            & ~lesion
        )
        image = drawn.pixels.astype(float)
        assert 2 <= lesion.sum() <= 60
        assert abs(np.median(image[lesion]) - np.median(image[grown])) > 8


def test_higher_slices_have_higher_classes() -> None:
    assert BRAIN_TASKS["position"].held_out
    drawn = list(draw_brains("position", 0, "training", 40, 32))
    area = [
        np.mean([(each.pixels > 60).mean() for each in drawn if each.label == label])
        for label in range(5)
    ]
    # the middle of a brain is the widest
    assert max(area[1:4]) == max(area) and area[4] < area[3] and area[0] < area[2]
