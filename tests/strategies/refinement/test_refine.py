"""Coefficients from distances, and the model that follows from them.

Hospitals stand on a line, so distances can be read off.
"""

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from polyclinic.errors import ConfigError
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.refinement.distribution import Neighbourhood
from polyclinic_strategies.refinement.refine import (
    RULES,
    Recipe,
    Refinement,
    choose_coefficients,
    combine,
)

# six distances: 1, 1, 2, 8, 9, 10; the median is 5
LINE = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 10.0}
UNIT = 5.0


def on_a_line(places: Mapping[str, float]) -> Neighbourhood:
    made = Neighbourhood("average_image")  # Euclidean
    made.update({site: {"average_image": torch.tensor([place])} for site, place in places.items()})
    return made


def choose(
    site: str, places: Mapping[str, float], contributors: str = "abcd", **recipe: object
) -> Refinement:
    return choose_coefficients(site, on_a_line(places), list(contributors), Recipe(**recipe))  # type: ignore[arg-type]


# coefficients


def test_softmax_of_distances_in_medians() -> None:
    found = choose("a", LINE, sharpness=0.5)
    assert found.distances == pytest.approx(
        {"a": 0.0, "b": 1 / UNIT, "c": 2 / UNIT, "d": 10 / UNIT}
    )
    shares = torch.softmax(
        torch.tensor([0.0, -1.0, -2.0, -10.0], dtype=torch.float64) / UNIT / 0.5, 0
    ).tolist()
    assert found.coefficients == pytest.approx(dict(zip("abcd", shares, strict=True)), abs=1e-12)
    assert (found.nearest, found.fallback, found.sources) == ("a", "", ["a", "b", "c", "d"])


def uncertain(places: Mapping[str, float], variance: float) -> Neighbourhood:
    made = Neighbourhood("average_image")
    made.update(
        {
            site: {
                "average_image": torch.tensor([place]),
                "average_image.variance": torch.tensor([variance]),
            }
            for site, place in places.items()
        }
    )
    return made


def posterior(places: Mapping[str, float], variance: float, **more: float) -> dict[str, float]:
    recipe = Recipe("posterior", **more)  # type: ignore[arg-type]
    near = uncertain(places, variance)
    return dict(choose_coefficients("x", near, ["a", "b", "c"], recipe).coefficients)


def test_the_posterior_by_hand() -> None:
    # medians: a and b are 1 apart, b and c 1, a and c 2, so the unit is 1
    found = posterior({"a": 0.0, "b": 1.0, "c": 2.0, "x": 0.5}, 0.0, sharpness=0.5)
    near, far, stranger = math.exp(-0.5), math.exp(-4.5), math.exp(-2.0)
    shares = [near + stranger, near + stranger, far + stranger]
    assert list(found.values()) == pytest.approx([share / sum(shares) for share in shares])


def test_the_posterior_finds_a_relative_and_tends_to_the_mean_where_evidence_is_weak() -> None:
    places = {"a": 0.0, "b": 3.0, "c": 6.0, "x": 0.1}
    certain, doubtful, unknown = (posterior(places, each) for each in (0.0, 0.5, 1e3))
    assert certain["a"] > 0.99
    assert certain["a"] > doubtful["a"] > unknown["a"] > 1 / 3 - 1e-9
    assert list(unknown.values()) == pytest.approx([1 / 3] * 3, abs=1e-3)


def test_the_posterior_of_strangers_is_the_mean_and_that_of_oneself_oneself() -> None:
    corners = {"a": (0.0, 0.0), "b": (1.0, 0.0), "c": (0.5, 0.866), "x": (0.5, -1.0)}
    near = Neighbourhood("average_image")
    near.update({site: {"average_image": torch.tensor(place)} for site, place in corners.items()})
    strange = choose_coefficients("x", near, ["a", "b", "c"], Recipe("posterior"))
    assert max(strange.coefficients.values()) < 0.51
    own = choose_coefficients("a", near, ["a", "b", "c"], Recipe("posterior", sharpness=0.1))
    assert own.coefficients["a"] > 0.999


@pytest.mark.parametrize("rule", RULES)
def test_the_scale_is_what_coefficients_add_up_to_and_0_is_the_centre(rule: str) -> None:
    half, none = (choose("a", LINE, rule=rule, sharpness=0.5, scale=each) for each in (0.5, 0.0))
    whole = choose("a", LINE, rule=rule, sharpness=0.5)
    assert half.coefficients == pytest.approx({s: w / 2 for s, w in whole.coefficients.items()})
    assert (none.coefficients, none.sources, none.recipe.is_common) == ({}, [], True)
    base: StateDict = {"w": torch.ones(2)}
    assert torch.equal(combine(base, {}, none)["w"], base["w"])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sharpness", [1e-3, 0.07, 1.0, 50.0])
@pytest.mark.parametrize("site", ["a", "d", "newcomer"])
def test_coefficients_are_positive_and_add_up_to_1(rule: str, sharpness: float, site: str) -> None:
    found = choose(site, {**LINE, "newcomer": 1.7}, rule=rule, sharpness=sharpness)
    assert min(found.coefficients.values()) > 0
    assert sum(found.coefficients.values()) == pytest.approx(1.0, abs=1e-12)
    assert set(found.coefficients) <= set("abcd")


@pytest.mark.parametrize(
    ("rule", "least", "alone"), [("nearest", 1, True), ("nearest", 2, False), ("softmax", 3, False)]
)
def test_a_least_number_of_sources_keeps_a_model_from_being_one_hospitals_vector(
    rule: str, least: int, alone: bool
) -> None:
    places = {**LINE, "newcomer": 0.1}
    found = choose("newcomer", places, rule=rule, sharpness=0.01, least_sources=least)
    assert (max(found.coefficients.values()) > 0.99) == alone
    assert bool(found.fallback) != alone and ("a" in found.fallback) != alone
    own = choose("a", LINE, rule=rule, sharpness=0.01, least_sources=least)
    assert own.coefficients["a"] > 0.99  # its own vector is no secret to it


def test_identical_hospitals_share_equally() -> None:
    places = {"a": 3.0, "b": 3.0, "c": 3.0, "newcomer": 3.0}
    for rule in ("softmax", "clusters", "uniform", "norm_local"):
        assert choose("newcomer", places, "abc", rule=rule).coefficients == pytest.approx(
            dict.fromkeys("abc", 1 / 3)
        )


def test_two_that_are_equally_near_share_equally() -> None:
    found = choose("newcomer", {**LINE, "newcomer": 0.5}, sharpness=0.01)
    assert found.coefficients == pytest.approx({"a": 0.5, "b": 0.5})


def test_ever_sharper_is_the_nearest_and_ever_softer_is_the_mean() -> None:
    places = {**LINE, "newcomer": 1.2}
    assert choose("newcomer", places, sharpness=1e-4).coefficients == {"b": 1.0}
    assert choose("newcomer", places, rule="nearest").coefficients == {"b": 1.0}
    uniform = choose("newcomer", places, rule="uniform").coefficients
    assert choose("newcomer", places, sharpness=1e9).coefficients == pytest.approx(uniform)
    shares = [
        choose("newcomer", places, sharpness=value).coefficients["b"]
        for value in (0.01, 0.1, 1.0, 10.0)
    ]
    assert shares == sorted(shares, reverse=True) and len(set(shares)) == 4


def test_beyond_reach_the_mean_is_used_and_it_says_whom_and_how_far() -> None:
    found = choose("newcomer", {**LINE, "newcomer": -20.0}, reach=3.0)
    assert found.coefficients == dict.fromkeys("abcd", 0.25)
    assert found.fallback == "nobody is near: a, the nearest, is 4.0 medians away, the limit is 3"
    assert found.distances["d"] == pytest.approx(30 / UNIT)
    # the limit itself is within reach
    assert choose("newcomer", {**LINE, "newcomer": -20.0}, reach=4.0).fallback == ""


def test_a_hospital_that_is_not_described_gets_the_mean_with_a_reason() -> None:
    found = choose("newcomer", LINE)
    assert found.coefficients == dict.fromkeys("abcd", 0.25)
    assert "nobody described newcomer by average image" in found.fallback
    undescribed = choose("a", {"a": 0.0}, "bc")
    assert undescribed.coefficients == {"b": 0.5, "c": 0.5} and undescribed.fallback


def test_a_contributor_that_is_not_described_has_no_share_but_in_the_mean() -> None:
    places = {"b": 1.0, "c": 2.0, "newcomer": 1.4}
    assert set(choose("newcomer", places, "abc").coefficients) == {"b", "c"}
    assert set(choose("newcomer", places, "abc", rule="uniform").coefficients) == {"a", "b", "c"}


def test_a_cluster_hangs_together_in_short_steps() -> None:
    places = {**LINE, "newcomer": 0.1}
    step = 1.0 / UNIT
    assert choose(
        "newcomer", places, rule="clusters", sharpness=step
    ).coefficients == pytest.approx(dict.fromkeys("abc", 1 / 3))
    assert choose("newcomer", places, rule="clusters", sharpness=0.9 * step).coefficients == {
        "a": 1.0
    }
    assert choose(
        "newcomer", places, rule="clusters", sharpness=8 * step
    ).coefficients == dict.fromkeys("abcd", 0.25)
    assert choose(
        "newcomer", {**LINE, "newcomer": 9.0}, rule="clusters", sharpness=step
    ).coefficients == {"d": 1.0}


def test_only_the_nearest_neighbours_count() -> None:
    found = choose("newcomer", {**LINE, "newcomer": 1.4}, sharpness=1.0, neighbours=2)
    assert set(found.coefficients) == {"b", "c"}
    assert found.coefficients["b"] > found.coefficients["c"] > 0.4
    assert set(found.distances) == set("abcd")  # told all the same


def test_a_contributor_keeps_its_own_normalization_and_a_newcomer_has_none() -> None:
    own = choose("b", LINE, rule="norm_local")
    assert (own.normalization, own.coefficients) == ({"b": 1.0}, dict.fromkeys("abcd", 0.25))
    assert choose("newcomer", {**LINE, "newcomer": 1.0}, rule="norm_local").normalization == {}
    left_out = choose("b", LINE, "acd", rule="norm_local")
    assert left_out.normalization == {} and left_out.coefficients == pytest.approx(
        dict.fromkeys("acd", 1 / 3)
    )


def test_left_out_a_hospital_gets_what_a_newcomer_in_its_place_would() -> None:
    left_out = choose("b", LINE, "acd")
    newcomer = choose("newcomer", {"a": 0.0, "c": 2.0, "d": 10.0, "newcomer": 1.0}, "acd")
    assert left_out.coefficients == newcomer.coefficients and "b" not in left_out.distances


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_contributors_changes_nothing(rule: str) -> None:
    neighbourhood = on_a_line({**LINE, "newcomer": 1.4})
    orders = itertools.permutations("abcd")
    found = [
        choose_coefficients("newcomer", neighbourhood, order, Recipe(rule, sharpness=0.3))
        for order in orders
    ]
    assert all(
        list(each.coefficients.items()) == list(found[0].coefficients.items()) for each in found
    )


def test_without_contributors_there_is_nothing_to_refine() -> None:
    with pytest.raises(ConfigError):
        choose("a", LINE, "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rule": "magic"},
        {"sharpness": 0.0},
        {"sharpness": -1.0},
        {"sharpness": float("nan")},
        {"reach": 0.0},
        {"reach": float("nan")},
        {"neighbours": 0},
    ],
)
def test_impossible_recipes_are_a_wrong_setting(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="refinement"):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_a_recipe_in_words() -> None:
    assert str(Recipe("softmax", "average_image", 0.2)) == "softmax by average image, sharpness 0.2"
    assert str(Recipe("nearest", "histogram")) == "nearest by histogram"
    assert len({str(Recipe(rule)) for rule in RULES}) == len(RULES)


# the model

BASE: StateDict = {
    "conv.weight": torch.full((2, 3), 0.5),
    "norm.weight": torch.ones(3),
    "count": torch.tensor(7),
}


class Vector:
    """A contribution, opened."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.state = {
            name: torch.randn(BASE[name].shape, generator=generator)
            for name in ("conv.weight", "norm.weight")
        }

    def task_vector(self, name: str) -> Tensor:
        return self.state[name]


FILES = {site: Vector(seed) for seed, site in enumerate("abcd")}


def refined(
    coefficients: Mapping[str, float], normalization: Mapping[str, float] | None = None
) -> Refinement:
    return Refinement("newcomer", Recipe(), coefficients, {}, normalization=normalization or {})


def test_the_model_is_the_base_and_the_weighted_task_vectors() -> None:
    made = combine(BASE, FILES, refined({"a": 0.25, "c": 0.75}))
    for name in ("conv.weight", "norm.weight"):
        vector = 0.25 * FILES["a"].state[name] + 0.75 * FILES["c"].state[name]
        assert_close(made[name], BASE[name] + vector)
        assert made[name].dtype == torch.float32


def test_with_its_own_vector_alone_a_hospital_gets_the_model_that_it_trained() -> None:
    made = combine(BASE, FILES, refined({"b": 1.0}))
    for name in ("conv.weight", "norm.weight"):
        assert torch.equal(made[name], BASE[name] + FILES["b"].state[name])


def test_no_order_changes_a_bit() -> None:
    """Vectors so long that a float64 forgets what was added before them, or does not, as the order
    has it.
    """
    files = {site: Vector(0) for site in "abcd"}
    for site, length in zip("abcd", (1e17, 1.0, -1e17, 1.0), strict=True):
        files[site].state = {
            name: torch.full_like(tensor, length) for name, tensor in files[site].state.items()
        }
    shares = dict.fromkeys("abcd", 0.25)
    first = combine(BASE, files, refined(shares))
    for order in itertools.permutations("abcd"):
        again = combine(
            BASE,
            {site: files[site] for site in order},
            refined({site: shares[site] for site in reversed(order)}),
        )
        assert all(torch.equal(first[name], again[name]) for name in BASE)


def test_equal_vectors_come_out_whatever_the_coefficients() -> None:
    files = dict.fromkeys("abc", FILES["a"])
    made = combine(BASE, files, refined({"a": 0.2, "b": 0.3, "c": 0.5}))
    assert_close(made["conv.weight"], BASE["conv.weight"] + FILES["a"].state["conv.weight"])


def test_normalization_layers_are_mixed_apart() -> None:
    shares = {"a": 0.5, "c": 0.5}
    made = combine(BASE, FILES, refined(shares, {"b": 1.0}), ["norm.weight"])
    together = combine(BASE, FILES, refined(shares), ["norm.weight"])
    assert torch.equal(made["norm.weight"], BASE["norm.weight"] + FILES["b"].state["norm.weight"])
    assert torch.equal(made["conv.weight"], together["conv.weight"])
    assert not torch.equal(made["norm.weight"], together["norm.weight"])
    assert refined(shares, {"b": 1.0}).sources == ["a", "b", "c"]


def test_what_is_no_weight_is_copied_and_the_base_is_left_alone() -> None:
    before = {name: tensor.clone() for name, tensor in BASE.items()}
    made = combine(BASE, FILES, refined({"a": 1.0}))
    assert int(made["count"]) == 7 and made["count"].dtype == torch.int64
    for tensor in made.values():
        tensor.zero_()
    assert all(torch.equal(BASE[name], before[name]) for name in BASE)
