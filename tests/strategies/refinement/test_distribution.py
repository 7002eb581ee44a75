"""Distances that are kept: only what is new or changed is measured."""

from collections.abc import Iterator
from statistics import median

import pytest
import torch
from torch import Tensor

from polyclinic.describing.average_image import AverageImage
from polyclinic.errors import UnknownName
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.refinement.distribution import Neighbourhood
from polyclinic_strategies.refinement.refine import Recipe, choose_coefficients

NAME = "average_image"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, float]]]:
    """Every pair whose distance was asked of the statistic."""
    calls: list[tuple[float, float]] = []
    plain = AverageImage.distance

    def count(self: AverageImage, one: Tensor, other: Tensor) -> float:
        calls.append((float(one[0]), float(other[0])))
        return plain(self, one, other)

    monkeypatch.setattr(AverageImage, "distance", count)
    yield calls


def described(**places: float) -> dict[str, StateDict]:
    return {site: {NAME: torch.tensor([place, 0.0])} for site, place in places.items()}


def ask_everything(neighbourhood: Neighbourhood) -> dict[tuple[str, str], float]:
    return {
        (one, other): neighbourhood.distance(one, other)
        for one in neighbourhood.sites
        for other in neighbourhood.sites
    }


def test_a_pair_is_measured_once_and_oneself_never(measured: list[tuple[float, float]]) -> None:
    neighbourhood = Neighbourhood(NAME)
    neighbourhood.update(described(a=0.0, b=3.0, c=7.0))
    found = ask_everything(neighbourhood)
    assert len(measured) == 3
    assert found["a", "c"] == found["c", "a"] == 7.0
    assert all(found[site, site] == 0.0 for site in "abc")
    ask_everything(neighbourhood)
    neighbourhood.update(described(c=7.0, a=0.0, b=3.0))  # the same again
    ask_everything(neighbourhood)
    assert len(measured) == 3


def test_who_comes_or_changes_is_measured_alone(measured: list[tuple[float, float]]) -> None:
    neighbourhood = Neighbourhood(NAME)
    neighbourhood.update(described(a=0.0, b=3.0, c=7.0))
    ask_everything(neighbourhood)
    measured.clear()
    neighbourhood.update(described(a=0.0, b=3.0, c=7.0, d=20.0))
    ask_everything(neighbourhood)
    assert len(measured) == 3 and all(20.0 in pair for pair in measured)
    measured.clear()
    neighbourhood.update(described(a=0.0, b=4.0, c=7.0, d=20.0))
    found = ask_everything(neighbourhood)
    assert len(measured) == 3 and all(4.0 in pair for pair in measured)
    assert found["a", "b"] == found["b", "a"] == 4.0


def test_who_goes_is_forgotten_and_nobody_else_is_measured(
    measured: list[tuple[float, float]],
) -> None:
    neighbourhood = Neighbourhood(NAME)
    neighbourhood.update(described(a=0.0, b=3.0, c=7.0))
    ask_everything(neighbourhood)
    measured.clear()
    neighbourhood.update(described(a=0.0, c=7.0))
    ask_everything(neighbourhood)
    assert (measured, neighbourhood.sites, neighbourhood.knows("b")) == ([], ["a", "c"], False)
    with pytest.raises(KeyError):
        neighbourhood.distance("a", "b")
    neighbourhood.update(described(a=0.0, b=5.0, c=7.0))  # another hospital of that name
    assert neighbourhood.distance("a", "b") == 5.0


def test_the_unit_is_the_median_and_follows_changes() -> None:
    neighbourhood = Neighbourhood(NAME)
    neighbourhood.update(described(a=0.0, b=1.0, c=2.0, d=10.0))
    assert neighbourhood.unit(["a", "b", "c", "d"]) == median([1, 2, 10, 1, 9, 8])
    assert neighbourhood.unit(["a", "b", "c"]) == 1.0
    neighbourhood.update(described(a=0.0, b=4.0, c=8.0, d=10.0))
    assert neighbourhood.unit(["a", "b", "c"]) == 4.0


def test_without_distances_the_unit_is_1() -> None:
    neighbourhood = Neighbourhood(NAME)
    assert neighbourhood.unit([]) == 1.0
    neighbourhood.update(described(a=5.0, b=5.0))
    assert neighbourhood.unit(["a"]) == neighbourhood.unit(["a", "b"]) == 1.0


def test_only_those_that_this_statistic_describes_are_known() -> None:
    neighbourhood = Neighbourhood(NAME)
    neighbourhood.update({**described(b=1.0, a=0.0), "c": {"histogram": torch.ones(2)}, "d": {}})
    assert neighbourhood.sites == ["a", "b"] and not neighbourhood.knows("c")


def test_a_description_of_another_length_stops_nobody() -> None:
    neighbourhood = Neighbourhood(NAME)
    for odd in (
        torch.ones(1),
        torch.ones(3),
        torch.ones(2, 2),
    ):  # the first would even be compared, number by number
        neighbourhood.update({"odd": {NAME: odd}, **described(a=0.0, b=3.0)})
        assert neighbourhood.sites == ["a", "b"]
        found = choose_coefficients("odd", neighbourhood, ["a", "b"], Recipe(statistic=NAME))
        assert (
            found.coefficients == {"a": 0.5, "b": 0.5} and "nobody described odd" in found.fallback
        )


def test_an_unknown_statistic_has_no_neighbourhood() -> None:
    with pytest.raises(UnknownName, match="magic"):
        Neighbourhood("magic")


def test_variances_shorten_distances_and_make_the_noise() -> None:
    neighbourhood = Neighbourhood(NAME)
    one = described(a=0.0, b=3.0, c=3.1)
    neighbourhood.update(one)
    assert (neighbourhood.distance("a", "b"), neighbourhood.noise("a", "abc")) == (3.0, 0.0)
    for site, variance in {"a": 0.5, "b": 0.25}.items():
        one[site][f"{NAME}.variance"] = torch.tensor([variance])
    neighbourhood.update(one)  # a variance is a change, too
    assert neighbourhood.distance("a", "b") == pytest.approx((9 - 0.75) ** 0.5)
    assert neighbourhood.distance("b", "c") == 0.0  # nearer than chance
    assert neighbourhood.noise("a", "abc") == pytest.approx(0.5 + 0.25)
