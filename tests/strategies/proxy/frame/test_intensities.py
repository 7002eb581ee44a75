import pytest
import torch
from torch.testing import assert_close

from polyclinic_strategies.proxy.frame.intensities import air_level, match_histogram


def test_a_stretched_image_gets_the_references_intensities_back() -> None:
    reference = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.2
    lookup = match_histogram(100 + 500 * reference**2, reference, air=50.0)
    assert_close(
        lookup(100 + 500 * torch.tensor([0.3, 0.5, 0.7, 0.95]) ** 2),
        torch.tensor([0.3, 0.5, 0.7, 0.95]),
        atol=0.01,
        rtol=0.0,
    )
    assert_close(lookup(torch.tensor([-5.0, 0.0, 50.0])), torch.zeros(3))  # air
    assert float(lookup(torch.tensor(1e6))) == pytest.approx(float(reference.max()))
    ramp = lookup(torch.linspace(0, 700, 500))
    assert (ramp.diff() >= 0).all()


def test_equal_intensities_are_no_trouble() -> None:
    lookup = match_histogram(torch.full((50,), 7.0), torch.rand(50), air=1.0)
    assert torch.isfinite(lookup(torch.linspace(0, 10, 11))).all()
    few = match_histogram(torch.tensor([1.0, 2.0]).repeat(50), torch.rand(100), air=0.0)
    found = few(torch.tensor([0.0, 1.0, 1.5, 2.0, 3.0]))
    assert float(found[0]) == 0.0 and (found.diff() >= 0).all()
    flat = match_histogram(torch.full((50,), 1.0), torch.rand(50), air=1.0)  # nothing above air
    assert torch.isfinite(flat(torch.linspace(0, 10, 11))).all()


def test_air_is_what_noise_reaches() -> None:
    # as a scanner shows it
    noise = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0)).mul(20).norm(dim=0)
    level = air_level(noise, bright=600.0)
    assert float((noise > level).float().mean()) < 0.02
    assert level < 100
    assert (
        air_level(torch.zeros(100), bright=600.0)
        == air_level(torch.zeros(0), bright=600.0)
        == pytest.approx(12.0)
    )


def test_nothing_to_match_is_refused() -> None:
    with pytest.raises(ValueError, match="histogram"):
        match_histogram(torch.zeros(0), torch.rand(5), air=0.0)
