"""From a ledger and the descriptions beside it to models.

Durable, exact, and nobody counts who should not.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from polyclinic.errors import ConfigError, ModelInvalid, UnknownName
from polyclinic.learning.state_dict import StateDict, save_state
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic.store.requirements import Requirements
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.refinement.refine import Recipe
from polyclinic_strategies.refinement.refiner import DESCRIPTION, Description, Refiner, affected

BASE: StateDict = {"conv.weight": torch.zeros(3, 4), "norm.weight": torch.ones(3)}
CLOCK = itertools.count(1)
RECIPE = Recipe(sharpness=0.5)
NAME = RECIPE.statistic


def mean(place: float) -> StateDict:
    return {NAME: torch.tensor([place])}


def contribute(
    ledger: Ledger, folder: Path, site: str, place: float | None, seed: int = 0, staleness: int = 0
) -> None:
    """Make a contribution whose hospital is at `place`; without one, it has no description."""
    base = ledger.bases()[-1]
    generator = torch.Generator().manual_seed(len(site) + 100 * ord(site[0]) + seed)
    vector = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in BASE.items()}
    statistics = (
        {f"{DESCRIPTION}{name}": tensor for name, tensor in mean(place).items()}
        if place is not None
        else {}
    )
    made = write_contribution(
        folder, Contribution(site, base, "t", 3, {}, float(next(CLOCK)), "1"), vector, statistics
    )
    layout = {name: tuple(tensor.shape) for name, tensor in BASE.items()}
    ledger.receive(made, site, Requirements(base, layout, "t", None, 2**20, 0.0, {}, staleness))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Make a ledger to which a, b and c contributed, at 0, 1 and 4."""
    with Ledger.open(tmp_path / "ledger") as made:
        made.add_base(BASE)
        for site, place in (("a", 0.0), ("b", 1.0), ("c", 4.0)):
            contribute(made, tmp_path, site, place)
        yield made


def refiner(ledger: Ledger, **staleness: int) -> Refiner:
    return Refiner(Publisher(ledger, staleness.get("staleness", 0), 0.5), ["norm.weight"])


def newcomer(ledger: Ledger, place: float, base: str = "") -> Description:
    return Description(base or ledger.bases()[-1], 5, mean(place))


def assert_equal(ours: StateDict, theirs: StateDict) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_contributors_describe_themselves_inside_their_contribution(ledger: Ledger) -> None:
    found = refiner(ledger)
    assert found.contributors() == ["a", "b", "c"] and found.statistics() == [NAME]
    near_b = found.coefficients("b", RECIPE)
    # the median of 1, 3 and 4
    assert near_b.distances == pytest.approx({"a": 1 / 3, "b": 0.0, "c": 1.0})
    assert near_b.nearest == "b"


def test_only_what_describes_everybody_is_a_statistic_to_choose(
    ledger: Ledger, tmp_path: Path
) -> None:
    contribute(ledger, tmp_path, "mute", None)
    found = refiner(ledger)
    assert found.statistics() == []
    assert "nobody described mute" in found.coefficients("mute", RECIPE).fallback
    assert set(found.coefficients("a", RECIPE).coefficients) == {"a", "b", "c"}


def test_the_model_is_made_of_the_contributions(ledger: Ledger) -> None:
    found = refiner(ledger)
    chosen = found.coefficients("b", RECIPE)
    vectors = {entry.site: Publisher(ledger, 0, 0.5).single(entry) for entry in ledger.active()}
    expected = sum(
        share * (vectors[site]["conv.weight"] - BASE["conv.weight"])
        for site, share in chosen.coefficients.items()
    )
    torch.testing.assert_close(found.model(chosen)["conv.weight"], BASE["conv.weight"] + expected)
    assert_equal(found.model(found.coefficients("b", Recipe("nearest"))), vectors["b"])
    own = found.model(found.coefficients("b", Recipe("norm_local")))
    assert torch.equal(own["norm.weight"], vectors["b"]["norm.weight"])
    assert not torch.equal(own["conv.weight"], vectors["b"]["conv.weight"])


def test_a_newcomer_gets_a_model_and_outlasts_reopening(ledger: Ledger) -> None:
    first = refiner(ledger)
    first.describe("new", newcomer(ledger, 1.1))
    chosen = first.coefficients("new", RECIPE)
    assert chosen.nearest == "b" and "new" not in chosen.coefficients
    with Ledger.open(ledger.folder) as again:
        reopened = refiner(again)
        assert reopened.newcomers()["new"].subjects == 5
        assert reopened.coefficients("new", RECIPE) == chosen
        assert_equal(reopened.model(chosen), first.model(chosen))
        reopened.forget("new")
        assert reopened.newcomers() == {}
    assert refiner(ledger).newcomers() == {}
    with pytest.raises(UnknownName):
        refiner(ledger).coefficients("new", RECIPE)


def test_what_a_newcomer_says_last_counts(ledger: Ledger) -> None:
    found = refiner(ledger)
    for place, nearest in ((0.1, "a"), (3.9, "c")):
        found.describe("new", newcomer(ledger, place))
        assert (
            found.coefficients("new", RECIPE).nearest
            == nearest
            == refiner(ledger).coefficients("new", RECIPE).nearest
        )
    assert len(list((ledger.folder / "descriptions").iterdir())) == 1  # nothing half-done is left


def test_forgetting_somebody_who_never_came_does_nothing(ledger: Ledger) -> None:
    refiner(ledger).forget("nobody")


def test_what_a_contributor_said_as_a_newcomer_no_longer_counts(
    ledger: Ledger, tmp_path: Path
) -> None:
    found = refiner(ledger)
    found.describe("new", newcomer(ledger, 3.9))
    contribute(ledger, tmp_path, "new", 0.1)
    assert found.coefficients("new", RECIPE).distances == pytest.approx(
        {"a": 0.05, "b": 0.45, "c": 1.95, "new": 0.0}, rel=1e-5
    )
    assert found.matrix(NAME)[0] == ["a", "b", "c", "new"]


def test_a_description_of_an_older_bases_features_does_not_count(
    ledger: Ledger, tmp_path: Path
) -> None:
    found = refiner(ledger)
    found.describe("new", newcomer(ledger, 1.0))
    ledger.add_base({name: tensor + 1.0 for name, tensor in BASE.items()})
    contribute(ledger, tmp_path, "a", 0.0)
    assert found.newcomers() == {} == refiner(ledger).newcomers()
    assert found.contributors() == ["a"]
    with pytest.raises(UnknownName):
        found.coefficients("new", RECIPE)
    found.describe("new", newcomer(ledger, 1.0))
    assert found.coefficients("new", RECIPE).coefficients == {"a": 1.0}


def test_a_vector_on_an_older_base_counts_for_less_if_it_counts(ledger: Ledger) -> None:
    (entry,) = [each for each in ledger.active() if each.site == "a"]
    vector = Publisher(ledger, 0, 0.5).single(entry)["conv.weight"] - BASE["conv.weight"]
    newer = {name: tensor + 1.0 for name, tensor in BASE.items()}
    ledger.add_base(newer)
    late = refiner(ledger, staleness=1)
    made = late.model(late.coefficients("a", Recipe("nearest")))
    torch.testing.assert_close(made["conv.weight"], newer["conv.weight"] + 0.5 * vector)
    assert refiner(ledger).contributors() == []


def test_a_withdrawal_gives_the_bits_of_a_ledger_that_never_had_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    found = refiner(ledger)
    found.describe("new", newcomer(ledger, 1.5))
    before = found.model(found.coefficients("new", RECIPE))
    ledger.withdraw("b", "for the test")
    with Ledger.open(tmp_path / "never") as never:
        never.add_base(BASE)
        for site, place in (("c", 4.0), ("a", 0.0)):
            contribute(never, tmp_path, site, place)
        other = refiner(never)
        other.describe("new", newcomer(never, 1.5))
        for site, recipe in itertools.product(
            ("a", "c", "new"), (RECIPE, Recipe("norm_local"), Recipe("clusters"))
        ):
            ours, theirs = found.coefficients(site, recipe), other.coefficients(site, recipe)
            assert ours == theirs
            assert_equal(found.model(ours), other.model(theirs))
        assert found.matrix(NAME) == other.matrix(NAME)
    assert not torch.equal(
        found.model(found.coefficients("new", RECIPE))["conv.weight"], before["conv.weight"]
    )
    contribute(ledger, tmp_path, "b", 1.0)  # and it comes back, with the same
    assert_equal(found.model(found.coefficients("new", RECIPE)), before)


def test_everybodys_coefficients_at_once_are_those_of_each(ledger: Ledger) -> None:
    found, own = refiner(ledger), Recipe("norm_local")
    found.describe("new", newcomer(ledger, 3.0))
    together = found.all_coefficients(RECIPE, own)
    assert together == [
        *(found.coefficients(site, own) for site in "abc"),
        found.coefficients("new", RECIPE),
    ]


def test_left_out_a_contributor_is_a_newcomer(ledger: Ledger) -> None:
    found = refiner(ledger)
    assert set(found.coefficients("b", RECIPE, leave_out=True).coefficients) == {"a", "c"}
    for site in ("b", "c"):
        ledger.withdraw(site, "for the test")
    with pytest.raises(ConfigError):
        found.coefficients("a", RECIPE, leave_out=True)


def test_the_matrix_has_contributors_first_and_is_symmetric(ledger: Ledger) -> None:
    found = refiner(ledger)
    found.describe("a-newcomer", newcomer(ledger, 2.0))
    sites, distances = found.matrix(NAME)
    assert sites == ["a", "b", "c", "a-newcomer"]
    assert torch.tensor(distances).equal(torch.tensor(distances).T)
    assert distances[0] == pytest.approx([0.0, 1 / 3, 4 / 3, 2 / 3])


def test_an_unknown_site_is_told_who_is_known(ledger: Ledger) -> None:
    found = refiner(ledger)
    found.describe("st-mary", newcomer(ledger, 2.0))
    with pytest.raises(UnknownName, match=r"Did you mean st-mary.*a, b, c, st-mary"):
        found.coefficients("st-marry", RECIPE)


@pytest.mark.parametrize("name", ["", "../../evil", "a/b", ".hidden", "x" * 64])
def test_a_name_that_leads_elsewhere_is_refused(ledger: Ledger, name: str) -> None:
    with pytest.raises(ModelInvalid):
        refiner(ledger).describe(name, newcomer(ledger, 1.0))
    assert not (ledger.folder / "descriptions").exists()


@pytest.mark.parametrize(
    "metadata", [{}, {"polyclinic": "{"}, {"polyclinic": '{"base": "b"}'}, {"polyclinic": "[1]"}]
)
def test_a_damaged_description_is_named(ledger: Ledger, metadata: dict[str, str]) -> None:
    refiner(ledger).describe("new", newcomer(ledger, 1.0))
    path = ledger.folder / "descriptions" / "new.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelInvalid, match=r"new\.safetensors"):
        refiner(ledger).newcomers()
    save_state(mean(1.0), path, metadata)
    with pytest.raises(ModelInvalid, match=r"new\.safetensors.*Remove it"):
        refiner(ledger).newcomers()


def test_affected_are_those_whose_coefficients_changed_and_who_is_new(ledger: Ledger) -> None:
    found, own = refiner(ledger), Recipe("nearest")
    found.describe("at-b", newcomer(ledger, 1.1))
    before = found.all_coefficients(own, own)
    assert affected(before, before) == []
    found.describe("at-c", newcomer(ledger, 4.1))
    ledger.withdraw("b", "for the test")
    after = found.all_coefficients(own, own)
    assert affected(before, after) == ["at-b", "at-c"]  # a and c have their own vector as before
    plain, apart = (found.coefficients("a", Recipe(rule)) for rule in ("uniform", "norm_local"))
    assert affected([plain], [apart]) == ["a"]
