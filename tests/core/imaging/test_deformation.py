import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.testing import assert_close

from polyclinic.imaging.deformation import compose, exponentiate, sample, warp


def _smooth_field(size: int = 24, amplitude: float = 2.0) -> Tensor:
    noise = torch.randn(3, size, size, size, generator=torch.Generator().manual_seed(1)).numpy()
    field = torch.stack(
        [torch.from_numpy(gaussian_filter(axis, 4, mode="constant")) for axis in noise]
    )
    return field[None] * (amplitude / field.abs().max())


def test_no_displacement_changes_nothing() -> None:
    volume = torch.rand(2, 1, 5, 6, 7)
    zero = torch.zeros(2, 3, 5, 6, 7)
    assert_close(exponentiate(zero), zero)
    assert_close(warp(volume, zero), volume)


def test_constant_field_pulls_the_content_back() -> None:
    volume = torch.rand(1, 1, 6, 6, 6)
    ddf = torch.zeros(1, 3, 6, 6, 6)
    ddf[:, 0], ddf[:, 2] = 2.0, -1.0
    moved = warp(volume, ddf)
    assert_close(moved[..., :4, :, 1:], volume[..., 2:, :, :-1])  # output(x) = input(x + ddf)
    # beyond the face: the face
    assert_close(moved[..., 4:, :, 1:], volume[..., 5:, :, :-1].expand(1, 1, 2, 6, 5))


def test_constant_velocity_is_a_translation_by_itself() -> None:
    velocity = torch.tensor([1.5, -0.5, 0.25]).view(1, 3, 1, 1, 1).expand(1, 3, 8, 8, 8)
    assert_close(exponentiate(velocity), velocity.contiguous())


def test_linear_velocity_grows_exponentially() -> None:
    position = torch.arange(41.0) - 20
    velocity = torch.zeros(1, 3, 41, 3, 3)
    velocity[:, 0] = 0.3 * position.view(-1, 1, 1)  # dx/dt = 0.3 x, hence x(1) = x exp(0.3)
    inner = slice(8, 33)
    expected = position[inner] * (torch.tensor(0.3).exp() - 1)
    assert_close(exponentiate(velocity)[0, 0, inner, 1, 1], expected, rtol=2e-3, atol=1e-4)


def test_the_negative_velocity_undoes() -> None:
    velocity = _smooth_field()
    there, back = exponentiate(velocity), exponentiate(-velocity)
    assert there.norm(dim=1).max() > 1.0
    assert compose(there, back)[..., 3:-3, 3:-3, 3:-3].norm(dim=1).max() < 0.05


def test_compose_is_one_warp_after_the_other() -> None:
    first, second = _smooth_field(), _smooth_field().flip(2)
    axes = torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij")
    ramp = (axes[0] + 2 * axes[1] - axes[2])[None, None]  # linear, so interpolation is exact
    inner = (..., slice(5, -5), slice(5, -5), slice(5, -5))
    assert_close(
        warp(ramp, compose(first, second))[inner],
        warp(warp(ramp, first), second)[inner],
        atol=1e-3,
        rtol=1e-4,
    )


def test_nearest_keeps_labels() -> None:
    labels = torch.randint(0, 4, (1, 1, 24, 24, 24)).float()
    assert set(warp(labels, _smooth_field(), mode="nearest").unique().tolist()) <= {
        0.0,
        1.0,
        2.0,
        3.0,
    }


def test_sample_reads_a_grid_of_another_size_and_a_flat_volume() -> None:
    volume = torch.arange(8.0).view(1, 1, 8, 1, 1)
    points = torch.zeros(1, 3, 3, 1, 1)
    points[0, 0, :, 0, 0] = torch.tensor([0.5, 3.0, 9.0])
    assert_close(sample(volume, points).flatten(), torch.tensor([0.5, 3.0, 7.0]))


@pytest.mark.parametrize("shape", [(3, 4, 4, 4), (1, 2, 4, 4, 4), (1, 3, 4, 4)])
def test_ill_shaped_fields_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        exponentiate(torch.zeros(shape))


def test_a_field_on_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot warp"):
        warp(torch.zeros(1, 1, 4, 4, 5), torch.zeros(1, 3, 4, 4, 4))


def test_negative_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps"):
        exponentiate(torch.zeros(1, 3, 4, 4, 4), steps=-1)
