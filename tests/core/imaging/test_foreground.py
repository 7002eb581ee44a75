"""What counts as the patient.

Masked images, scanners' own images, photographs, and images that are hardly images.
"""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from polyclinic.describing.regions import crop_to_patient, standardize
from polyclinic.imaging.foreground import foreground

SHAPES = [(40, 48), (20, 24, 22), (40, 48, 1)]


def ball(*places: int, radius: float = 0.6) -> Tensor:
    axes = torch.meshgrid(
        *[torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1) for size in places],
        indexing="ij",
    )
    return sum((axis**2 for axis in axes), torch.zeros(places)) < radius**2


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("places", SHAPES)
def test_of_a_masked_image_whatever_is_not_0_is_the_patient(places: tuple[int, ...]) -> None:
    inside = ball(*places)
    image = torch.where(inside, noise(2, *places) - 0.5, 0.0)  # negative values are no air
    image[0, inside] = 0.0  # one channel may be empty
    assert torch.equal(foreground(image), inside)


@pytest.mark.parametrize("places", SHAPES)
def test_noisy_air_around_a_bright_patient_is_air(places: tuple[int, ...]) -> None:
    inside = ball(*places)
    image = torch.where(inside, 1.0, 0.0)[None] + 0.03 * noise(1, *places)
    found = foreground(image)
    assert bool(found[inside].all())
    assert float((found & ~inside).float().mean()) < 0.05  # the rim that closing adds, at most
    assert not bool(found[(0,) * len(places)])


@pytest.mark.parametrize("places", SHAPES)
def test_a_scale_and_an_offset_change_nothing_as_long_as_air_is_not_0(
    places: tuple[int, ...],
) -> None:
    image = torch.where(ball(*places), 1.0, 0.0)[None] + 0.03 * noise(1, *places) + 0.01
    assert torch.equal(foreground(1000 * image - 300), foreground(image))


@pytest.mark.parametrize("places", SHAPES)
def test_a_photograph_has_no_air(places: tuple[int, ...]) -> None:
    assert bool(foreground(0.5 + noise(3, *places)).all())
    bright_border = torch.where(ball(*places), 0.2, 1.0)[None] + 0.01 * noise(1, *places)
    assert bool(foreground(bright_border).all())


def test_a_dark_hole_in_the_patient_is_the_patients_and_a_dark_corner_is_not() -> None:
    inside = ball(40, 48)
    image = torch.where(inside, 1.0, 0.0)[None] + 0.03 * noise(1, 40, 48)
    image[0, 19:22, 23:26] = 0.01  # a ventricle, three voxels wide
    found = foreground(image)
    assert bool(found[19:22, 23:26].all())
    image[0, 13:27, 17:31] = 0.01  # as wide as half the patient: closing does not reach its middle
    assert not bool(foreground(image)[20, 24])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 1, 1), (3, 1, 1)])
def test_an_image_of_one_voxel_is_the_patient(shape: tuple[int, ...]) -> None:
    for value in (5.0, 0.0, -1.0):
        assert (
            foreground(torch.full(shape, value)).tolist()
            == torch.ones(shape[1:], dtype=torch.bool).tolist()
        )


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
@pytest.mark.parametrize("places", SHAPES)
def test_a_constant_image_is_all_patient(places: tuple[int, ...], value: float) -> None:
    assert bool(foreground(torch.full((1, *places), value)).all())


def test_one_axis_of_length_1_sees_what_the_slice_alone_shows() -> None:
    image = torch.where(ball(40, 48), 1.0, 0.0)[None] + 0.03 * noise(1, 40, 48)
    flat = foreground(image)
    assert torch.equal(foreground(image[..., None])[..., 0], flat)
    assert torch.equal(foreground(image[:, None])[0], flat)
    assert 0.1 < float(flat.float().mean()) < 0.9


def test_the_image_is_left_as_it_was() -> None:
    image = noise(1, 12, 12)
    before = image.clone()
    foreground(image)
    assert torch.equal(image, before)


def test_statistics_of_a_scanners_own_image_are_taken_inside_the_patient() -> None:
    image = torch.where(ball(20, 24, 22), 1.0 + noise(20, 24, 22), 0.0)[None] + 0.03 * noise(
        1, 20, 24, 22
    )
    found = foreground(image)
    assert max(crop_to_patient(image).shape[1:]) < 22
    assert float(standardize(image)[0, found].mean()) == pytest.approx(0.0, abs=1e-4)
    assert not bool(standardize(image)[0, ~found].any())


@pytest.mark.parametrize("shape", [(1, 5), (1, 5, 5, 5, 5)])
def test_other_numbers_of_axes_are_refused(shape: tuple[int, ...]) -> None:
    image = torch.ones(shape)
    image[0, 0], image[0, -1] = 0.01, 0.02
    with pytest.raises((RuntimeError, TypeCheckError, IndexError)):
        foreground(image)
