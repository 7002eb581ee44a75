"""Deformations whose answer is known: affine maps, and MONAI's own blocks."""

import math

import pytest
import torch
from monai.networks.blocks import DVF2DDF, Warp
from torch import Tensor
from torch.testing import assert_close

from polyclinic.imaging.deformation import (
    compose,
    exponentiate,
    identity,
    jacobian_determinant,
    sample,
    upsample,
    warp,
)

SHAPES = pytest.mark.parametrize("shape", [(20, 24), (20, 24, 16)])


def affine_field(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the displacement of x -> c + matrix (x - c) about the box's centre c."""
    centre = (torch.tensor(shape, dtype=torch.float32) - 1).div(2).view(1, -1, *(1,) * len(shape))
    places = identity(shape) - centre
    return torch.einsum("ij,bj...->bi...", matrix, places) - places


def rotation(degrees: float, axes: int) -> Tensor:
    angle = math.radians(degrees)
    turn = torch.eye(axes)
    turn[:2, :2] = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return turn


def round_trip_error(ddf: Tensor, inverse: Tensor) -> Tensor:
    """Return how far voxels are from their place after a warp by `ddf` and then by `inverse`."""
    return torch.linalg.vector_norm(compose(ddf, inverse), dim=1)


def inner(field: Tensor, margin: int) -> Tensor:
    return field[(..., *(slice(margin, -margin),) * (field.ndim - 2))]


def smooth_velocity(shape: tuple[int, ...], amplitude: float) -> Tensor:
    """Cosines of two orders, 0 at the faces."""
    units = [torch.linspace(0, 1, size) for size in shape]
    grids = torch.meshgrid(*units, indexing="ij")
    hill = torch.stack([torch.sin(math.pi * grid) for grid in grids]).prod(0)
    return (
        amplitude
        * torch.stack([hill * torch.cos(2 * math.pi * (grid + grids[-1])) for grid in grids])[None]
    )


@SHAPES
def test_the_jacobian_of_affine_maps_is_exact_up_to_the_border(shape: tuple[int, ...]) -> None:
    axes = len(shape)
    scales = torch.tensor([1.2, 0.9, 1.1][:axes])
    for matrix in (
        torch.diag(scales),
        rotation(20, axes),
        torch.eye(axes) + 0.1 * torch.ones(axes, axes),
    ):
        found = jacobian_determinant(affine_field(matrix, shape))
        assert found.shape == (1, *shape)
        assert_close(
            found, torch.full_like(found, float(torch.linalg.det(matrix))), atol=1e-5, rtol=1e-5
        )
    assert_close(jacobian_determinant(torch.full((2, axes, *shape), 1.7)), torch.ones(2, *shape))


def test_a_fold_has_a_negative_jacobian_and_a_flat_axis_counts_as_still() -> None:
    mirrored = affine_field(torch.diag(torch.tensor([-1.0, 1.0])), (8, 8))
    assert (jacobian_determinant(mirrored) < 0).all()
    stretched = affine_field(torch.diag(torch.tensor([1.5, 1.0, 1.0])), (8, 6, 1))
    assert_close(jacobian_determinant(stretched), torch.full((1, 8, 6, 1), 1.5))


@SHAPES
def test_a_linear_velocity_gives_the_matrix_exponential(shape: tuple[int, ...]) -> None:
    axes = len(shape)
    rate = torch.tensor([[0.05, -0.20, 0.03], [0.18, -0.08, 0.02], [0.0, 0.05, 0.04]])[:axes, :axes]
    velocity = affine_field(torch.eye(axes) + rate, shape)  # v(x) = rate (x - c)
    expected = affine_field(torch.linalg.matrix_exp(rate), shape)
    assert_close(inner(exponentiate(velocity, 9), 5), inner(expected, 5), atol=0.01, rtol=0.0)
    assert_close(
        inner(exponentiate(-velocity, 9), 5),
        inner(affine_field(torch.linalg.matrix_exp(-rate), shape), 5),
        atol=0.01,
        rtol=0.0,
    )


@SHAPES
def test_a_rotation_by_a_right_angle_moves_whole_voxels(shape: tuple[int, ...]) -> None:
    image = torch.rand(1, 2, 9, 9, *shape[2:])
    turned = warp(image, affine_field(rotation(90, len(shape)), tuple(image.shape[2:])))
    assert_close(turned, torch.rot90(image, -1, (2, 3)), atol=1e-5, rtol=0.0)


@SHAPES
def test_compositions_of_affine_maps_multiply(shape: tuple[int, ...]) -> None:
    axes = len(shape)
    one, two = rotation(12, axes), torch.diag(torch.tensor([0.9, 0.8, 0.95][:axes]))
    both = compose(affine_field(one, shape), affine_field(two, shape))
    assert_close(inner(both, 5), inner(affine_field(one @ two, shape), 5), atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("shape", [(32, 40), (32, 40, 28)])
def test_the_negative_velocity_gives_the_inverse(shape: tuple[int, ...]) -> None:
    velocity = smooth_velocity(shape, 1.3)
    there, back = exponentiate(velocity), exponentiate(-velocity)
    assert there.abs().max() > 1
    error = round_trip_error(there, back)
    assert error.shape == (1, *shape) and float(error.max()) < 0.1 and float(error.mean()) < 0.02
    assert float(round_trip_error(there, torch.zeros_like(there)).max()) > 1


def test_two_dimensions_are_three_with_one_slice_repeated() -> None:
    flat = smooth_velocity((20, 24), 1.5)
    deep = torch.cat([flat, torch.zeros(1, 1, 20, 24)], 1)[..., None].repeat(1, 1, 1, 1, 3)
    image = torch.rand(1, 2, 20, 24)
    there_flat, there_deep = exponentiate(flat), exponentiate(deep)
    stack = image[..., None].repeat(1, 1, 1, 1, 3)
    for one, other in (
        (there_flat, there_deep[:, :2]),
        (warp(image, there_flat), warp(stack, there_deep)),
        (jacobian_determinant(there_flat), jacobian_determinant(there_deep)),
        (upsample(there_flat, (30, 48)), upsample(there_deep, (30, 48, 3))[:, :2]),
    ):
        assert_close(one, other[..., 1], atol=1e-5, rtol=1e-5)


# it says that it has no compiled code
@pytest.mark.filterwarnings("ignore:monai.networks.blocks.Warp")
@SHAPES
def test_monai_agrees_in_the_interior(shape: tuple[int, ...]) -> None:
    velocity, image = smooth_velocity(shape, 2.0), torch.rand(1, 1, *shape)
    ddf = exponentiate(velocity)
    assert_close(inner(ddf, 2), inner(DVF2DDF(num_steps=7)(velocity), 2), atol=1e-4, rtol=1e-4)
    assert_close(
        warp(image, ddf),
        Warp(mode="bilinear", padding_mode="border")(image, ddf),
        atol=1e-4,
        rtol=0.0,
    )


@SHAPES
def test_an_affine_map_stays_itself_on_a_finer_grid(shape: tuple[int, ...]) -> None:
    axes, fine = (
        len(shape),
        tuple(size * factor // 2 for size, factor in zip(shape, (4, 3, 5), strict=False)),
    )
    factors = torch.tensor([new / old for new, old in zip(fine, shape, strict=True)])
    matrix = torch.eye(axes) + 0.1 * torch.randn(
        axes, axes, generator=torch.Generator().manual_seed(0)
    )
    scaled = torch.diag(factors) @ matrix @ torch.diag(1 / factors)
    # both boxes have their centre in common, so the map about it is the same
    assert_close(
        upsample(affine_field(matrix, shape), fine), affine_field(scaled, fine), atol=1e-4, rtol=0.0
    )


def test_faces_coincide_not_outermost_centres() -> None:
    ddf = torch.full((1, 2, 1, 2), 0.5)
    ddf[:, 1, 0, 1] = 1.5  # centres at 1/4 and 3/4 of the box
    fine = upsample(ddf, (2, 4))
    assert_close(fine[0, 0], torch.full((2, 4), 1.0))
    assert_close(fine[0, 1, 0], torch.tensor([0.25, 0.75, 1.25, 1.75]) * 2)


def test_gradients_reach_the_velocity() -> None:
    velocity = smooth_velocity((8, 8), 1.0).requires_grad_()
    ddf = exponentiate(upsample(velocity, (16, 16)), 3)
    loss = warp(torch.rand(1, 1, 16, 16), ddf).sum() + jacobian_determinant(ddf).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert velocity.grad is not None and velocity.grad.abs().sum() > 0


def test_impossible_arguments_are_refused() -> None:
    field = torch.zeros(1, 2, 8, 8)
    with pytest.raises(ValueError, match="finer"):
        upsample(field, (8, 7))
    with pytest.raises(ValueError, match="finer"):
        upsample(field, (8, 8, 8))
    with pytest.raises(ValueError, match="shape"):
        jacobian_determinant(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="cannot warp"):
        sample(torch.zeros(1, 1, 8, 8, 8), field)
    with pytest.raises(ValueError, match="cannot warp"):
        sample(torch.zeros(2, 1, 8, 8), field)
