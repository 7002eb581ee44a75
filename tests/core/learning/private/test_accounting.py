"""What private training tells, and the noise for it, against dp-accounting itself."""

import math

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from polyclinic.learning.private.accounting import ORDERS, Spending, epsilon, find_noise

SPENT = (Spending(0.1, 1.0, 100), Spending(0.02, 0.8, 500), Spending(0.1, 1.0, 50))


def test_epsilon_is_that_of_dp_accounting() -> None:
    for spent in (SPENT[:1], SPENT[1:2], SPENT):
        accountant = RdpAccountant(ORDERS)
        for each in spent:
            event = PoissonSampledDpEvent(each.share, GaussianDpEvent(each.noise))
            accountant.compose(SelfComposedDpEvent(event, each.steps))
        assert epsilon(spent, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), abs=1e-6)


def test_it_is_no_less_than_the_tighter_account_by_privacy_losses() -> None:
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(PoissonSampledDpEvent(0.1, GaussianDpEvent(1.0)), 100)
    tight = accountant.get_epsilon(1e-5)
    assert tight < epsilon(SPENT[:1], 1e-5) < 1.2 * tight


def test_steps_add_up_whatever_their_order_and_rounds() -> None:
    assert epsilon(SPENT, 1e-5) == epsilon(SPENT[::-1], 1e-5)
    assert epsilon([Spending(0.1, 1.0, 150)], 1e-5) == epsilon([SPENT[0], SPENT[2]], 1e-5)
    assert epsilon([], 1e-5) == 0.0


@pytest.mark.parametrize(("wanted", "share", "steps"), [(8.0, 0.2, 60), (1.0, 1.0, 10)])
def test_the_noise_that_is_found_is_just_enough(wanted: float, share: float, steps: int) -> None:
    noise = find_noise(wanted, 1e-5, share, steps)
    assert epsilon([Spending(share, noise, steps)], 1e-5) <= wanted
    assert epsilon([Spending(share, noise * (1 - 1e-4), steps)], 1e-5) > wanted


def test_nothing_protects_within_an_epsilon_that_is_too_small() -> None:
    assert math.isinf(find_noise(1e-6, 1e-300, 1.0, 10**9))
