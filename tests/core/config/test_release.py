"""What leaves a hospital: how far one subject moves it, the noise, and the guarantee in numbers."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.testing import assert_close

from polyclinic.config import release as module
from polyclinic.config.release import Release, gaussian
from polyclinic.errors import TooFewSubjects


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def analytic_delta(sigma: float, epsilon: float) -> float:
    """Balle and Wang 2018, theorem 8, for sensitivity 1."""

    def below(value: float) -> float:
        return math.erfc(-value / math.sqrt(2)) / 2

    return below(1 / (2 * sigma) - epsilon * sigma) - math.exp(epsilon) * below(
        -1 / (2 * sigma) - epsilon * sigma
    )


def test_short_vectors_are_averaged_and_long_ones_shortened_first() -> None:
    rows = [torch.tensor([0.5, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([30.0, 40.0])]
    assert_close(Release().mean(rows), torch.tensor([(0.5 + 0.6) / 3, (1.0 + 0.8) / 3]))


@pytest.mark.parametrize("subjects", [3, 10])
@pytest.mark.parametrize("length", [0.1, 1.0, 1e6])
def test_one_subject_moves_the_mean_by_at_most_two_over_the_number_of_subjects(
    subjects: int, length: float
) -> None:
    rows = list(random(subjects, 50))
    before = Release().mean(rows)
    for other in (*(length * random(20, 50, seed=1)), -1e6 * rows[0]):
        moved = torch.linalg.vector_norm(Release().mean([other, *rows[1:]]) - before)
        assert float(moved) <= 2 / subjects + 1e-6
    zeroed = torch.linalg.vector_norm(Release().mean([0 * rows[0], *rows[1:]]) - before)
    assert float(zeroed) == pytest.approx(
        1 / subjects, rel=1e-5
    )  # the neighbour that epsilon speaks of; these are all clipped to 1


def test_the_opposite_vector_reaches_the_bound() -> None:
    one = torch.tensor([1.0, 0.0])
    assert_close(
        Release().mean([one] * 4) - Release().mean([-one, one, one, one]), torch.tensor([0.5, 0.0])
    )


def test_the_order_of_subjects_does_not_matter() -> None:
    rows = list(random(5, 20))
    assert_close(Release().mean(rows), Release().mean(rows[::-1]))


@pytest.mark.parametrize(("subjects", "noise"), [(4, 0.5), (10, 2.0)])
def test_the_noise_has_the_stated_spread_around_the_mean(subjects: int, noise: float) -> None:
    rows = [row / 500 for row in random(subjects, 40_000)]
    added = Release(noise_multiplier=noise).mean(rows) - Release().mean(rows)
    spread = noise / subjects
    assert float(added.std()) == pytest.approx(spread, rel=0.03)  # six standard errors are 0.02
    assert abs(float(added.mean())) < 6 * spread / 200
    assert float((added.abs() < spread).double().mean()) == pytest.approx(
        math.erf(1 / math.sqrt(2)), abs=0.02
    )


def test_the_numbers_are_gaussian() -> None:
    drawn, _ = gaussian(100_000).sort()
    expected = torch.special.ndtri((torch.arange(100_000).double() + 0.5) / 100_000)
    assert (
        float((torch.special.ndtr(drawn) - torch.special.ndtr(expected)).abs().max()) < 0.0085
    )  # Kolmogorov-Smirnov, p = 1e-6
    assert drawn.dtype == torch.float64


def test_the_noise_hangs_on_no_seed() -> None:
    rows, made = list(random(3, 8)), []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(Release(noise_multiplier=1.0).mean(rows))
    assert not torch.equal(*made)
    before = torch.get_rng_state()
    Release(noise_multiplier=1.0).mean(rows)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_the_rarest_random_bits_still_give_a_number(
    byte: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.secrets, "token_bytes", lambda count: byte * count)
    assert 8 < abs(float(gaussian(1))) < 9


@pytest.mark.parametrize("subjects", [0, 1, 4])
def test_too_few_subjects_release_nothing(subjects: int) -> None:
    with pytest.raises(TooFewSubjects, match=f"has {subjects} subjects .* at least 5"):
        Release(min_subjects=5).mean([torch.ones(2)] * subjects)
    assert Release(min_subjects=5).mean([torch.ones(2)] * 5).shape == (2,)


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("releases", [1, 5, 100])
def test_epsilon_is_that_of_the_analytic_gaussian_mechanism(noise: float, releases: int) -> None:
    epsilon = Release(noise_multiplier=noise).epsilon(releases)
    assert analytic_delta(noise / math.sqrt(releases), epsilon) == pytest.approx(1e-5, rel=1e-3)


def test_epsilon_is_that_of_a_general_accountant() -> None:
    from dp_accounting import GaussianDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    accountant.compose(GaussianDpEvent(2.0), 5)
    assert Release(noise_multiplier=2.0, delta=1e-6).epsilon(5) == pytest.approx(
        accountant.get_epsilon(1e-6), rel=1e-3
    )


def test_more_noise_tells_less_and_more_releases_tell_more() -> None:
    by_noise = [Release(noise_multiplier=noise).epsilon(5) for noise in (0.1, 0.5, 1.0, 5.0, 50.0)]
    assert by_noise == sorted(by_noise, reverse=True)
    by_releases = [Release(noise_multiplier=1.0).epsilon(count) for count in (1, 2, 5, 50)]
    assert by_releases == sorted(by_releases)
    assert len(set(by_noise)) == 5
    assert len(set(by_releases)) == 4
    assert Release(noise_multiplier=1.0, delta=1e-9).epsilon(1) > Release(
        noise_multiplier=1.0, delta=1e-3
    ).epsilon(1)
    assert Release(noise_multiplier=2.0).epsilon(4) == pytest.approx(
        Release(noise_multiplier=1.0).epsilon(1)
    )


def test_without_noise_nothing_is_promised() -> None:
    assert Release().epsilon(1) == math.inf
    with pytest.raises(ValueError, match="at least one"):
        Release(noise_multiplier=1.0).epsilon(0)


def test_the_strictest_is_as_careful_as_both() -> None:
    hospital, coordinator = Release(10, 0.0, 1e-5), Release(3, 1.0, 1e-6)
    both = Release(10, 1.0, 1e-6)
    assert hospital.strictest(coordinator) == coordinator.strictest(hospital) == both
    assert hospital.strictest(hospital) == hospital
    assert both.strictest(hospital) == both


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_subjects": 0},
        {"min_subjects": 2.5},
        {"noise_multiplier": -0.1},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"delta": 0.0},
        {"delta": 1.0},
        {"min_subject": 4},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Release(**wrong)  # type: ignore[arg-type]
