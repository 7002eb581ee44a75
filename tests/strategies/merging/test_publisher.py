"""A ledger and a rule make a model.

Kept sums and streaming agree bit for bit, whatever comes, goes or grows old.
"""

import itertools
from pathlib import Path

import pytest
import torch

from polyclinic.config.schemas import Part
from polyclinic.errors import ConfigError, LedgerError
from polyclinic.learning.state_dict import StateDict
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic.store.requirements import Requirements
from polyclinic_strategies.merging.arithmetic.configured import make_rules
from polyclinic_strategies.merging.arithmetic.layer import Rule
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.merging.rules.mean import Mean
from polyclinic_strategies.merging.rules.sum import Sum
from polyclinic_strategies.merging.rules.weighted_mean import WeightedMean

BASE: StateDict = {"conv.weight": torch.zeros(3, 4), "norm.running_var": torch.ones(3)}
CLOCK = itertools.count(1)
SUM: Part = {"_target_": "polyclinic_strategies.merging.rules.sum.Sum", "scale": 0.3}


def contribute(
    ledger: Ledger, folder: Path, site: str, base: str, older: dict[str, int] | None = None
) -> None:
    generator = torch.Generator().manual_seed(next(CLOCK))
    vector = {
        name: torch.randn(tensor.shape, generator=generator) * 0.1 for name, tensor in BASE.items()
    }
    made = write_contribution(
        folder,
        Contribution(site, base, "t", 3 + len(site), {}, float(next(CLOCK)), "1"),
        vector,
        {},
    )
    layout = {name: tuple(tensor.shape) for name, tensor in BASE.items()}
    ledger.receive(made, site, Requirements(base, layout, "t", None, 2**20, 0.0, older or {}, 5))


def assert_equal(ours: StateDict, theirs: StateDict) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("rule", [Sum(scale=0.4), Mean(), WeightedMean()])
def test_kept_sums_have_the_bits_of_merging_everything(tmp_path: Path, rule: Rule) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        base = ledger.add_base(BASE)
        kept, plain = Publisher(ledger, 1, 0.5, tmp_path / "sums"), Publisher(ledger, 1, 0.5)
        for site in ("a", "bb", "ccc"):
            contribute(ledger, tmp_path, site, base)
            assert_equal(kept.merge(rule), plain.merge(rule))
        without = plain.merge(rule, [entry for entry in plain.entries() if entry.site != "bb"])
        ledger.withdraw("bb", "asked for it")
        assert_equal(kept.merge(rule), without)
        contribute(ledger, tmp_path, "a", base)  # supersedes
        assert_equal(kept.merge(rule), plain.merge(rule))
        newer = ledger.add_base({name: tensor + 1.0 for name, tensor in BASE.items()})
        contribute(ledger, tmp_path, "ccc", newer, {base: 1})  # the others are discounted now
        assert_equal(kept.merge(rule), plain.merge(rule))


def test_a_damaged_sum_is_made_again(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        contribute(ledger, tmp_path, "a", ledger.add_base(BASE))
        publisher = Publisher(ledger, 0, 0.5, tmp_path / "sums")
        before = publisher.merge(Mean())
        (path,) = (tmp_path / "sums").iterdir()
        path.write_bytes(b"half")
        assert_equal(publisher.merge(Mean()), before)


def test_a_random_vector_is_as_long_in_every_tensor_and_leaves_statistics_alone(
    tmp_path: Path,
) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        contribute(ledger, tmp_path, "a", ledger.add_base(BASE))
        publisher = Publisher(ledger, 0, 0.5)
        merged = publisher.merge(Mean())
        random = publisher.random(merged, 0)
        distance = [
            (state["conv.weight"] - BASE["conv.weight"]).norm() for state in (merged, random)
        ]
        assert torch.allclose(*distance)
        assert not torch.allclose(merged["conv.weight"], random["conv.weight"])
        assert torch.equal(merged["norm.running_var"], random["norm.running_var"])


def test_nothing_to_merge_is_said(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.add_base(BASE)
        with pytest.raises(LedgerError):
            Publisher(ledger, 0, 0.5).merge(Mean())


def test_candidates_are_every_combination_and_the_configured_one_comes_first() -> None:
    assert [rule.scale for rule in make_rules(SUM, {"scale": [0.1, 0.3, 0.5]})] == [0.3, 0.1, 0.5]
    ties: Part = {
        "_target_": "polyclinic_strategies.merging.rules.ties.Ties",
        "keep": 0.2,
        "scale": 1.0,
    }
    assert len(make_rules(ties, {"scale": [0.5, 1.0], "keep": [0.2, 0.4]})) == 4


@pytest.mark.parametrize("candidates", [{"scale": [float("nan")]}, {"nothing": [1.0]}])
def test_impossible_candidates_are_a_wrong_setting(candidates: dict[str, list[float]]) -> None:
    with pytest.raises(ConfigError):
        make_rules(SUM, candidates)
