"""Hospitals that start from the newest published model, all at once or in turn."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from torch import Tensor

from polyclinic.federation.assignment import FAILED
from polyclinic.federation.envelope.content import weights_from_message
from polyclinic.learning.state_dict import unpack
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic_server.runs.withdrawal import withdraw
from polyclinic_strategies.merging.arithmetic.layer import Rule
from polyclinic_strategies.merging.asking.starts import Starts, heirs_of
from polyclinic_strategies.merging.messages import (
    Assignment,
    Handover,
    confirm,
    hand_over,
    read_assignment,
    read_base,
)
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.merging.rules.mean import Mean
from polyclinic_strategies.merging.rules.ties import Ties
from polyclinic_strategies.merging.strategy import Merging
from tests.strategies.merging.test_event_loop import BASE, MEAN, NAMES, Hospital, World


class Learner(Hospital):
    """A hospital that goes half of the way from where it starts to its `value`."""

    bases: dict[str, Tensor]
    given_up = False

    def answer(self, message: Message) -> Message | None:
        """Train from the model that the assignment names."""
        kind = message.metadata.message_type
        if kind == "query.base":
            self.asked.append(kind)
            self.bases = {**self._known(), read_base(message)[1]: weights_from_message(message)}
            return confirm(message)
        if kind != "query.collect":
            return super().answer(message)
        assignment, verdicts = read_assignment(message)
        self.verdicts += verdicts
        self.asked.append(f"{kind} {assignment.base[:8]}")
        if assignment.base not in self._known():
            return hand_over(message, Handover(needs_base=True))
        if self.given_up:
            return hand_over(message, Handover(doing=f"{FAILED}no room"))
        content = self.path(assignment).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if not self.ready or any(verdict.digest == digest for verdict in self.verdicts):
            return hand_over(message, Handover(doing="at work"))
        return hand_over(message, Handover(False, "", digest, content))

    def path(self, assignment: Assignment) -> Path:
        """Write the contribution: what was learned since the start."""
        start = unpack(self._known()[assignment.base], BASE, NAMES)
        vector = {name: 0.5 * (self.value - tensor) for name, tensor in start.items()}
        provenance = Contribution(
            self.site, assignment.base, assignment.task, 4, {}, self.created, "1"
        )
        return write_contribution(self.folder / self.site, provenance, vector, {})

    def _known(self) -> dict[str, Tensor]:
        return getattr(self, "bases", {})


class Class(World):
    """A coordinator and hospitals that learn, each towards another value."""

    def join(self, site: str, **details: Any) -> Hospital:
        """Let a learner join."""
        found = super().join(site, **details)
        learner = Learner(found.site, found.node, found.folder, float(len(self.hospitals)))
        self.hospitals[site] = learner
        return learner

    def starts(self) -> dict[str, str]:
        """Return the model that each contribution started from, by hospital."""
        return {entry.site: entry.base for entry in self.ledger.active()}


def by_hand(*values: float) -> float:
    """Let one after another start from the mean of those before, and join it."""
    mean, learned = 0.0, []
    for value in values:
        learned.append(mean + 0.5 * (value - mean))
        mean = sum(learned) / len(learned)
    return mean


def test_in_turn_each_starts_from_the_mean_of_those_before_it(tmp_path: Path) -> None:
    world = Class(tmp_path, "a", "b", "c", start="in_turn")
    assert world.loop.run() is not None
    assert world.weights().tolist() == pytest.approx([by_hand(1.0, 2.0, 3.0)] * 8)
    digests = [publication.digest for publication in world.ledger.publications()]
    assert world.starts() == {"a": world.ledger.bases()[0], "b": digests[0], "c": digests[1]}
    assert [event["sites"] for event in world.kinds("published")] == [
        ["a"], ["a", "b"], ["a", "b", "c"],
    ]  # fmt: skip


def test_at_once_all_that_are_there_start_from_the_base(tmp_path: Path) -> None:
    world = Class(tmp_path, "a", "b", start="newest")
    assert world.loop.run() is not None
    assert world.weights().tolist() == pytest.approx([(0.5 + 1.0) / 2] * 8)
    late = world.join("late")
    world.step(3.0, until=lambda: late.verdicts)
    # towards 3, half of the way from what the others learned
    assert world.weights().tolist() == pytest.approx([(0.5 + 1.0 + 0.75 + 0.5 * 2.25) / 3] * 8)


def test_nobody_begins_while_another_is_at_work(tmp_path: Path) -> None:
    world = Class(tmp_path, "a", "b", start="in_turn")
    world.hospitals["a"].ready = False
    world.step(0.5)
    assert not [each for each in world.hospitals["b"].asked if "collect" in each]
    world.hospitals["a"].ready = True
    assert world.loop.run() is not None
    assert world.weights().tolist() == pytest.approx([by_hand(1.0, 2.0)] * 8)


@pytest.mark.parametrize("fault", ["gives up", "is away", "is silent", "is refused"])
def test_a_hospital_that_cannot_loses_its_turn(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyclinic_strategies.merging.asking.starts.ABSENT_S", 0.2)
    world = Class(tmp_path, "a", "b", start="in_turn", end={"contributions": 1})
    first, second = world.hospitals["a"], world.hospitals["b"]
    assert isinstance(first, Learner)
    if fault == "gives up":
        first.given_up = True
    elif fault == "is refused":
        first.value = float("nan")
    else:
        first.ready = False
    world.step(0.1)
    if fault == "is away":
        first.node.leave()
    if fault == "is silent":
        world.loop.mailbox.patience_s = 0.2
    world.step(3.0, until=lambda: second.verdicts)
    assert [verdict.accepted for verdict in second.verdicts] == [True]
    assert set(world.starts()) == {"b"}


def test_a_restart_changes_no_start(tmp_path: Path) -> None:
    world = Class(tmp_path, "a", "b", "c", start="in_turn")
    world.until_acknowledged("a")
    world.hospitals["b"].ready = False
    world.step(3.0, until=lambda: world.hospitals["b"].asked[-1:] == ["query.base"])
    begun = world.ledger.publications()[-1].digest
    world.ledger.close()
    world.restart()
    world.hospitals["b"].ready = True
    assert world.loop.run() is not None
    assert world.starts()["b"] == begun
    assert world.weights().tolist() == pytest.approx([by_hand(1.0, 2.0, 3.0)] * 8)
    assert [each.asked.count("query.base") for each in world.hospitals.values()] == [1, 1, 1]


@pytest.mark.parametrize("text", ["", "{", '{"base": 3}', json.dumps({"base": "0" * 64})])
def test_a_damaged_list_of_starts_is_made_again(tmp_path: Path, text: str) -> None:
    with Ledger.open(tmp_path) as ledger:
        base = ledger.add_base(BASE)
        (tmp_path / "starts.json").write_text(text)
        starts = Starts("in_turn", Publisher(ledger, 0, 0.5))
        assert starts.of("x") is None
        starts.begin("x", base)
        again = Starts("in_turn", Publisher(ledger, 0, 0.5))
        assert again.of("x") == base
        assert not again.may_begin("y", (), 60.0) and again.may_begin("y", {"x"}, 60.0)
        assert Starts("newest", Publisher(ledger, 0, 0.5)).may_begin("y", (), 60.0)
        again.begin("y", "f" * 64)  # a model that is not there, as in a ledger from a backup
        assert Starts("in_turn", Publisher(ledger, 0, 0.5)).of("y") is None
        ledger.add_base({name: tensor + 1.0 for name, tensor in BASE.items()})
        assert Starts("in_turn", Publisher(ledger, 0, 0.5)).of("x") is None


def test_those_who_learned_from_a_withdrawn_hospital_are_named(tmp_path: Path) -> None:
    world = Class(tmp_path, "a", "b", "c", start="in_turn")
    world.loop.run()
    said = withdraw(world.ledger, "b", "test")
    assert "active contributions: 2" in said and "c started from a model that held it" in said
    assert heirs_of(world.ledger, "b") == ["c"] and heirs_of(world.ledger, "a") == []
    world.ledger.withdraw("a", "test")
    assert heirs_of(world.ledger, "a") == ["c"]  # b is withdrawn, too
    assert [event["start"] for event in world.kinds("contribution")] == [0, 1, 2]


def test_a_model_that_was_not_published_is_no_start(tmp_path: Path) -> None:
    world = Class(tmp_path, "a", "b", end={"contributions": 1})
    world.until_acknowledged("a")
    published = world.ledger.publications()[-1].digest
    learner = world.hospitals["b"]
    assert isinstance(learner, Learner)
    learner.bases = {published: world.weights()}
    entry = learner.path(Assignment(
        world.loop.assignment.order, published, world.loop.assignment.task, world.ledger.identity()
    ))  # fmt: skip
    content = entry.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    for start, accepted in (("base", False), ("newest", True)):
        world.strategy = Merging(title="t", rule=MEAN, start=start)
        loop = world.restart()
        loop.on_change("arrival")
        assert loop.receive("b", Handover(False, "", digest, content)).accepted is accepted


@pytest.mark.parametrize("rule", [Mean(), Ties(keep=0.5, scale=1.0)])
def test_offline_and_by_running_sums_the_same_is_merged(tmp_path: Path, rule: Rule) -> None:
    world = Class(tmp_path, "a", "b", "c", start="in_turn")
    world.loop.run()
    world.ledger.withdraw("c", "test")
    with Ledger.open(tmp_path / "ledger", create=False) as ledger:
        plain, kept = Publisher(ledger, 0, 0.5), Publisher(ledger, 0, 0.5, tmp_path / "sums")
        one, other = plain.merge(rule), kept.merge(rule)
        assert all(torch.equal(one[name], other[name]) for name in NAMES)
        second = next(entry for entry in ledger.active() if entry.site == "b")
        model = plain.single(second)
    if isinstance(rule, Mean):
        assert one["weight"].flatten().tolist() == pytest.approx([by_hand(1.0, 2.0)] * 6)
    assert model["bias"].tolist() == pytest.approx([0.5 + 0.5 * (2.0 - 0.5)] * 2)


def test_older_contributions_count_less_also_from_a_published_model(tmp_path: Path) -> None:
    world = Class(tmp_path, "a", "b", start="in_turn")
    world.loop.run()
    world.ledger.add_base({name: tensor + 10.0 for name, tensor in BASE.items()})
    strict, lenient = Publisher(world.ledger, 0, 0.5), Publisher(world.ledger, 1, 0.5)
    assert strict.entries() == [] and len(lenient.entries()) == 2
    expected = 10.0 + 0.5 * by_hand(1.0, 2.0)
    assert lenient.merge(Mean())["bias"].tolist() == pytest.approx([expected] * 2)
