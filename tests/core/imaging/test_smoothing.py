import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.testing import assert_close

from polyclinic.imaging.smoothing import smooth


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_it_is_scipys(sigma: float) -> None:
    field = random(2, 3, 7, 9, 8)  # smaller than the kernel's reach at the largest sigma
    wanted = [
        [
            gaussian_filter(channel.numpy(), sigma, mode="nearest", radius=int(3 * sigma + 0.5))
            for channel in each
        ]
        for each in field
    ]
    assert_close(
        smooth(field, sigma),
        torch.stack([torch.stack([torch.from_numpy(part) for part in each]) for each in wanted]),
    )


def test_a_constant_stays_and_the_axes_are_alike() -> None:
    assert_close(smooth(torch.full((1, 2, 5, 6, 7), 3.0), 1.5), torch.full((1, 2, 5, 6, 7), 3.0))
    field = random(1, 1, 6, 6, 6)
    turned = field.permute(0, 1, 4, 2, 3)
    assert_close(smooth(turned, 1.2), smooth(field, 1.2).permute(0, 1, 4, 2, 3))


def test_channels_do_not_mix_and_gradients_pass() -> None:
    field = torch.zeros(1, 2, 9, 9, 9, requires_grad=True)
    with torch.no_grad():
        field[0, 0, 4, 4, 4] = 1
    smoothed = smooth(field, 1.0)
    assert not smoothed[0, 1].any() and float(smoothed[0, 0].detach().sum()) == pytest.approx(
        1.0, abs=1e-5
    )
    (gradient,) = torch.autograd.grad(smoothed[0, 0, 4, 4, 4], field)
    assert_close(gradient[0, 0], smoothed[0, 0].detach())  # a Gaussian is symmetric


def test_no_sigma_changes_nothing() -> None:
    field = random(1, 3, 4, 4, 4)
    assert smooth(field, 0) is field


@pytest.mark.parametrize(
    ("shape", "sigma"), [((3, 4, 4, 4), 1.0), ((1, 3, 4, 4), 1.0), ((1, 3, 4, 4, 4), -0.1)]
)
def test_ill_shaped_fields_and_sigmas_are_refused(shape: tuple[int, ...], sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        smooth(torch.zeros(shape), sigma)
