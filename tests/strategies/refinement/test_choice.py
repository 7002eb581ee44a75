"""Recipes compete on hospitals that are left out.

Fairly, and without asking twice for the same model.
"""

import math
from collections.abc import Mapping
from statistics import stdev

import pytest
import torch

from polyclinic_strategies.refinement.choice import (
    DIGITS,
    Tried,
    best_statistic,
    decide,
    decide_for_each,
    try_recipes,
)
from polyclinic_strategies.refinement.distribution import Neighbourhood
from polyclinic_strategies.refinement.refine import Recipe, Refinement, choose_coefficients

PLACES = {"a": 0.0, "b": 1.0, "c": 2.0, "newcomer": 0.1}
CONTRIBUTORS = ["a", "b", "c"]
SHARP, SHARPER, UNIFORM, NEAREST = (
    Recipe(sharpness=1e-3),
    Recipe(sharpness=1e-4),
    Recipe("uniform"),
    Recipe("nearest"),
)
NEAR = Neighbourhood("average_image")
NEAR.update({site: {"average_image": torch.tensor([place])} for site, place in PLACES.items()})


def left_out(site: str, recipe: Recipe) -> Refinement:
    return choose_coefficients(site, NEAR, [each for each in CONTRIBUTORS if each != site], recipe)


class Hospitals:
    """Score a model by how much of the true neighbour is in it."""

    def __init__(self, silent: Mapping[str, int] | None = None, unscored: str = "") -> None:
        self.asked: list[tuple[str, Mapping[str, float]]] = []
        self._silent, self._unscored = dict(silent or {}), unscored

    def score(self, wanted: Mapping[str, Refinement]) -> dict[str, float]:
        self.asked += [(site, dict(each.coefficients)) for site, each in wanted.items()]
        found = {}
        for site, each in wanted.items():
            self._silent[site] = self._silent.get(site, 10**6) - 1
            if self._silent[site] >= 0:
                found[site] = (
                    math.nan if site == self._unscored else each.coefficients.get("b", 0.0)
                )
        return found


def test_the_best_comes_first_with_its_scores() -> None:
    tried = try_recipes([UNIFORM, SHARP], CONTRIBUTORS, left_out, Hospitals().score)
    assert [each.recipe for each in tried] == [SHARP, UNIFORM]
    assert tried[0].scores == {"a": 1.0, "b": 0.0, "c": 1.0} and tried[1].scores == {
        "a": 0.5,
        "b": 0.0,
        "c": 0.5,
    }
    assert tried[0].mean == 2 / 3


def test_of_equals_the_first_comes_first() -> None:
    for recipes in ([SHARP, NEAREST, SHARPER], [SHARPER, SHARP, NEAREST]):
        assert [
            each.recipe for each in try_recipes(recipes, ["a"], left_out, Hospitals().score)
        ] == recipes


def test_equal_coefficients_are_scored_once_and_count_for_every_recipe() -> None:
    hospitals = Hospitals()
    tried = try_recipes([SHARP, NEAREST, UNIFORM, SHARPER], ["a", "c"], left_out, hospitals.score)
    assert len(hospitals.asked) == 2 * 2  # two different models at two hospitals
    scores = {each.recipe: each.scores for each in tried}
    assert scores[SHARP] == scores[NEAREST] == scores[SHARPER] == {"a": 1.0, "c": 1.0}


def test_coefficients_that_agree_to_three_digits_are_the_same_model() -> None:
    hospitals, close = Hospitals(), 0.5 * 10**-DIGITS

    def refine(site: str, recipe: Recipe) -> Refinement:
        return Refinement(
            site,
            recipe,
            {"b": 0.7 + close * recipe.sharpness, "c": 0.3 - close * recipe.sharpness},
            {},
        )

    try_recipes(
        [Recipe(sharpness=value) for value in (0.2, 0.6, 3.0)], ["a"], refine, hospitals.score
    )
    assert [model["b"] for _, model in hospitals.asked] == [0.7 + close * 0.2, 0.7 + close * 3.0]


def test_another_normalization_is_another_model() -> None:
    hospitals = Hospitals()

    def own(site: str, recipe: Recipe) -> Refinement:
        return choose_coefficients(site, NEAR, CONTRIBUTORS, recipe)

    try_recipes([UNIFORM, Recipe("norm_local")], ["a"], own, hospitals.score)
    assert len(hospitals.asked) == 2


def test_who_does_not_answer_once_leaves_the_comparison_for_all_recipes() -> None:
    for hospitals in (Hospitals(silent={"c": 1}), Hospitals(unscored="c")):
        tried = try_recipes([UNIFORM, SHARP], CONTRIBUTORS, left_out, hospitals.score)
        assert [sorted(each.scores) for each in tried] == [["a", "b"]] * 2
        assert [each.mean for each in tried] == [0.5, 0.25]


def test_who_did_not_answer_is_asked_again_for_the_next_recipe() -> None:
    answers = [{}, {"a": 0.7}]
    tried = try_recipes([SHARP, SHARPER, NEAREST], ["a"], left_out, lambda wanted: answers.pop(0))
    assert [each.scores for each in tried] == [
        {"a": 0.7}
    ] * 3  # the same model, so the first one's score is known after all


def test_newcomers_have_no_say() -> None:
    hospitals = Hospitals()
    tried = try_recipes([UNIFORM, SHARP], CONTRIBUTORS, left_out, hospitals.score)
    assert {site for site, _ in hospitals.asked} == set(CONTRIBUTORS)
    assert all("newcomer" not in each.scores for each in tried)
    assert all("newcomer" not in model for _, model in hospitals.asked)


def test_without_answers_the_mean_is_nan_and_without_recipes_nothing_is_tried() -> None:
    tried = try_recipes([UNIFORM, SHARP], ["a"], left_out, Hospitals(silent={"a": 0}).score)
    assert [math.isnan(each.mean) for each in tried] == [True, True]
    assert try_recipes([], CONTRIBUTORS, left_out, Hospitals().score) == []
    assert math.isnan(Tried(UNIFORM, {}).mean)


# the one-standard-error rule

CENTRE = Recipe("uniform", scale=0.0)


def scored(recipe: Recipe, *scores: float) -> Tried:
    return Tried(recipe, dict(zip("abcd", scores, strict=False)))


def test_a_model_for_everybody_is_kept_unless_the_gain_is_above_its_error() -> None:
    common = scored(CENTRE, 0.5, 0.5, 0.5, 0.5)
    lucky = scored(SHARP, 0.8, 0.4, 0.5, 0.5)  # one hospital gains, one loses
    found = decide([common, lucky])
    assert not found.is_personal and (found.recipe, found.gain) == (CENTRE, pytest.approx(0.05))
    assert found.error == pytest.approx(stdev([0.3, -0.1, 0, 0]) / 2)
    sure = decide([common, scored(SHARP, 0.8, 0.6, 0.7, 0.6)])
    assert (sure.recipe, sure.common, sure.is_personal) == (SHARP, CENTRE, True)
    assert sure.gain == pytest.approx(0.175) and not sure.exceptions


def test_the_gain_is_of_what_the_others_chose_so_the_luck_of_many_recipes_does_not_count() -> None:
    common = scored(CENTRE, 0.5, 0.5, 0.5)
    # each recipe is lucky at one hospital: the best mean is above the common one by 0.1
    lucky = [scored(SHARP, 0.8, 0.5, 0.5), scored(SHARPER, 0.5, 0.8, 0.5)]
    found = decide([common, *lucky, scored(NEAREST, 0.5, 0.5, 0.8)])
    assert not found.is_personal and found.gain == pytest.approx(0.0)


def test_of_the_models_for_everybody_the_best_is_taken_and_of_equals_the_simplest() -> None:
    centre, mean = scored(CENTRE, 0.5, 0.5), scored(UNIFORM, 0.6, 0.5)
    assert decide([centre, mean]).recipe == UNIFORM
    assert decide([scored(UNIFORM, 0.5, 0.5), centre]).recipe == CENTRE


def test_each_contributor_gets_what_its_own_cases_show() -> None:
    common = scored(CENTRE, 0.5, 0.5, 0.5, 0.5)
    own = scored(SHARP, 0.9, 0.9, 0.9, 0.3)
    many = dict.fromkeys("abcd", 1000)
    found = decide_for_each([common, own], many)
    assert found.is_personal and found.exceptions == {"d": CENTRE}
    assert found.gain == pytest.approx(0.25)


def test_with_few_cases_a_gain_is_shrunk_towards_the_mean_over_hospitals() -> None:
    common = scored(CENTRE, 0.5, 0.5, 0.5, 0.5)
    lucky = scored(SHARP, 0.7, 0.5, 0.5, 0.45)
    few, many = ({**dict.fromkeys("abcd", n)} for n in (3, 1000))
    assert not decide_for_each([common, lucky], few).is_personal
    assert decide_for_each([common, lucky], many).exceptions.keys() == {"b", "c", "d"}
    # everybody gains a little: no hospital proves it alone, all of them together do
    all_gain = scored(SHARP, 0.53, 0.51, 0.52, 0.51)
    assert not decide_for_each([common, all_gain], few).is_personal
    assert not decide_for_each([common, all_gain], dict.fromkeys("abcd", 40)).exceptions
    assert decide_for_each([common, all_gain], dict.fromkeys("abcd", 40)).is_personal


def test_scores_that_vary_less_than_right_and_wrong_prove_more() -> None:
    # with two cases a hospital, right and wrong alone would allow an error of 0.17
    common, own = scored(CENTRE, 0.4, 0.4, 0.4, 0.4), scored(SHARP, 0.62, 0.55, 0.6, 0.52)
    found = decide_for_each([common, own], dict.fromkeys("abcd", 2))
    assert found.is_personal and not found.exceptions


def test_no_contributor_scored() -> None:
    found = decide_for_each([Tried(CENTRE, {}), Tried(SHARP, {})], {})
    assert found.recipe == CENTRE and math.isnan(found.gain)


def test_one_hospital_alone_proves_nothing() -> None:
    found = decide([Tried(CENTRE, {"a": 0.1}), Tried(SHARP, {"a": 0.9})])
    assert not found.is_personal and found.error == math.inf
    silent = decide([Tried(CENTRE, {}), Tried(SHARP, {})])
    assert silent.recipe == CENTRE and math.isnan(silent.gain) and "nobody" in silent.tell()


def test_the_best_statistic_is_that_of_a_model_of_ones_own() -> None:
    other = Recipe("posterior", "histogram")
    tried = [scored(CENTRE, 0.9), scored(other, 0.5), scored(SHARP, 0.4)]
    assert best_statistic(tried) == "histogram"
