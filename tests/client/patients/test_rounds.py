"""A hospital's rounds of private training: counted once, kept, and refused beyond its budget."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polyclinic.errors import ConfigError, NotAllowed
from polyclinic.federation.hospital import HOSPITAL, Trained
from polyclinic.federation.records import Order, PatientTerms
from polyclinic.federation.site import private_plan
from polyclinic.learning.private.accounting import epsilon
from polyclinic.learning.training import FitResult
from polyclinic_client.patients import rounds
from polyclinic_client.patients.rounds import ANSWERS, answer_round, check_run
from polyclinic_client.patients.spent import FILE, Spent, SpentDamaged, describe_spent
from polyclinic_client.policy.policy import FILE as POLICY
from polyclinic_client.site.dispatch import hospital_of
from polyclinic_client.site.site import Site
from tests.client.site.test_site import data, order  # noqa: F401

TERMS = PatientTerms(8.0, 1e-5, 1.0)


class Counting:
    """A hospital's part that trains differently each time, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def train(self, site: Site, asked: Order, weights: Tensor) -> Trained:
        self.times += 1
        return Trained(weights + self.times, FitResult(float("nan"), 3, 1))


@pytest.fixture
def site(data: Path, tmp_path: Path) -> Site:  # noqa: F811
    return Site("mprage-3t", data, tmp_path)


def asked(number: int = 1, **changes: Any) -> tuple[Order, Tensor]:
    made, weights = order(number=number, method="averaging")
    return replace(made, patients=TERMS, **changes), weights


def test_the_same_question_gets_the_same_bytes_and_counts_once(site: Site) -> None:
    hospital: Any = Counting()
    made, weights = asked()
    first = answer_round(site, made, weights, hospital)
    again = answer_round(site, replace(made, offset=1, version="9"), weights, hospital)
    assert hospital.times == 1 and torch.equal(first.weights, again.weights)
    (entry,) = Spent(site.state).entries()
    assert first.epsilon == again.epsilon == epsilon([entry.spent], entry.delta)
    assert (entry.run, entry.strategy, entry.round, entry.patients) == ("run", "arm", 1, 1)
    plan = private_plan(site, made)
    assert plan is not None and entry.spent == plan.spending


def test_a_crash_before_the_answer_is_kept_counts_nothing_and_one_behind_it_counts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital: Any = Counting()
    made, weights = asked()

    def dies(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(rounds, "save_state", dies)
        with pytest.raises(MemoryError):
            answer_round(site, made, weights, hospital)
    assert Spent(site.state).entries() == ()
    with monkeypatch.context() as patched:
        patched.setattr(Spent, "note", dies)
        with pytest.raises(MemoryError):  # the answer is kept, and did not leave
            answer_round(site, made, weights, hospital)
    (site.state / POLICY).write_text("epsilon_budget: 0.1\n")  # it counts for what did not leave
    with pytest.raises(NotAllowed, match="budget"):
        answer_round(site, made, weights, hospital)
    (site.state / POLICY).unlink()
    answered = answer_round(site, made, weights, hospital)
    assert hospital.times == 2 and torch.equal(answered.weights, weights + 2)
    assert len(Spent(site.state).entries()) == 1


def test_an_answer_that_is_gone_is_trained_anew_and_counts_again(site: Site) -> None:
    hospital: Any = Counting()
    made, weights = asked(rounds=3)
    answer_round(site, made, weights, hospital)
    (kept,) = (site.folder(made) / ANSWERS).glob("*.safetensors")
    kept.write_bytes(b"damaged")
    answer_round(site, made, weights, hospital)
    assert hospital.times == 2 and len(Spent(site.state).entries()) == 2


def test_two_answers_of_a_strategy_are_kept(site: Site) -> None:
    hospital: Any = Counting()
    for number in (1, 2, 3):
        made, weights = asked(number)
        answer_round(site, made, weights, hospital)
    assert len(list((site.folder(made) / ANSWERS).iterdir())) == 2
    assert len(Spent(site.state).entries()) == 3


def test_a_run_that_asks_for_more_than_it_promised_is_refused(site: Site) -> None:
    hospital: Any = Counting()
    for number in (1, 2, 3):
        answer_round(site, *asked(number), hospital)
    made, weights = asked(3)
    with pytest.raises(NotAllowed, match="than the run promised"):
        answer_round(site, made, weights + 1, hospital)
    assert hospital.times == 3 and len(Spent(site.state).entries()) == 3


def test_a_budget_holds_over_all_runs_and_is_looked_at_before_training(site: Site) -> None:
    hospital: Any = Counting()
    (site.state / POLICY).write_text("epsilon_budget: 9\n")
    check_run(site, asked()[0])
    for number in (1, 2, 3):
        answer_round(site, *asked(number), hospital)
    check_run(site, asked()[0])  # the run itself goes on
    other, weights = asked(run="other")
    with pytest.raises(NotAllowed, match=r"is epsilon 9\. 8 of it is spent"):
        check_run(site, other)
    with pytest.raises(NotAllowed, match="budget"):
        for number in (1, 2, 3):
            answer_round(site, replace(other, round=number), weights, hospital)
    assert hospital.times < 6
    told = describe_spent(site.state)
    assert "of a budget of 9" in told
    entries = Spent(site.state).entries()
    assert epsilon([each.spent for each in entries], 1e-5) <= 9


def test_a_run_of_two_strategies_tells_what_both_tell(site: Site) -> None:
    hospital: Any = Counting()
    (site.state / POLICY).write_text("epsilon: 8\nhide_epsilon: true\n")
    for number in (1, 2, 3):
        assert answer_round(site, *asked(number), hospital).epsilon is None
    with pytest.raises(NotAllowed, match="lets a run tell at most epsilon 8"):
        for number in (1, 2, 3):
            answer_round(site, *asked(number, arm="other"), hospital)


def test_a_damaged_record_stops_private_training_and_shows_no_path(site: Site) -> None:
    hospital: Any = Counting()
    made, weights = asked()
    answer_round(site, made, weights, hospital)
    path = site.state / FILE
    (entry,) = json.loads(path.read_text())
    for content in ("[", "{}", "[1]", json.dumps([{**entry, "noise": 0}]), "[" * 10**5):
        path.write_text(content)
        with pytest.raises(SpentDamaged) as caught:
            answer_round(site, made, weights + 1, hospital)
        assert not caught.value.shareable
    assert hospital.times == 1


def test_only_methods_that_protect_patients_are_found_for_such_an_order() -> None:
    assert hospital_of(asked()[0]) is HOSPITAL
    with pytest.raises(ConfigError, match="no training that protects each patient"):
        hospital_of(replace(asked()[0], method="merging"))


def test_other_training_passes_by_the_record(site: Site) -> None:
    hospital: Any = Counting()
    made, weights = order(method="averaging")
    assert answer_round(site, made, weights, hospital).epsilon is None
    assert not (site.state / FILE).exists()
