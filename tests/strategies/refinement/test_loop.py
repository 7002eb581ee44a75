"""The event loop of refinement: newcomers are served one by one, and failures hold up nobody.

Hospitals are functions; there is no network.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from polyclinic.config.compose import instantiate, load_config
from polyclinic.federation.grids.traffic import CountingGrid
from polyclinic.federation.records import Order, evaluation_reply
from polyclinic.learning.metrics import Evaluation
from polyclinic.store.ledger import Ledger
from polyclinic_strategies.merging import mailbox
from polyclinic_strategies.merging.messages import Assignment, Handover, confirm, hand_over
from polyclinic_strategies.refinement.loop import RefinementLoop
from polyclinic_strategies.refinement.messages import describe_reply
from polyclinic_strategies.refinement.strategy import Stay
from tests.fakes import FakeGrid, FakeNode, make_error
from tests.strategies.refinement.test_refiner import BASE, NAME, RECIPE, contribute

POLL = "query.collect"


@dataclass
class Newcomer:
    """A hospital whose description is `place`, given at the question number `patience` + 1."""

    site: str
    place: float = 0.4
    patience: int = 0
    broken: str = ""
    node: FakeNode = field(init=False)
    asked: list[str] = field(default_factory=list)

    def answer(self, message: Message) -> Message | None:
        kind = message.metadata.message_type
        if kind == POLL:
            return hand_over(message, Handover(doing="waiting"))
        if kind == "evaluate.score":
            return evaluation_reply(message, Evaluation(None, {}, 0.5, 1), 0.0)
        if kind == "query.describe" and self.patience > 0:
            self.patience -= 1
            return None
        self.asked.append(kind)
        if self.broken:
            return make_error(message, self.broken)
        if kind == "query.refined":
            return confirm(message)
        return describe_reply(message, {NAME: torch.tensor([self.place])}, 3, 0.0)


@dataclass
class Seat:
    node: int
    activated: str
    describes: bool


class Federation:
    """A federation in which a and b contributed, and newcomers only describe their images."""

    def __init__(self, folder: Path, *newcomers: Newcomer) -> None:
        self.ledger = Ledger.open(folder / "ledger")
        base = self.ledger.add_base(BASE)
        for site, place in (("a", 0.0), ("b", 1.0)):
            contribute(self.ledger, folder, site, place)
        self.newcomers = {each.site: each for each in newcomers}
        self.everybody = {**{site: Newcomer(site) for site in "ab"}, **self.newcomers}
        for number, each in enumerate(self.everybody.values(), 1):
            each.node = FakeNode(number, each.answer)
        self.grid = FakeGrid([each.node for each in self.everybody.values()])
        self.events: list[dict[str, Any]] = []
        refining = instantiate(
            load_config(["strategy=refinement", "strategy.contributions.poll_s=0.01"]).strategy,
            _recursive_=False,
        )
        order = Order("r", "refinement", 0, 1, "none", "1", {"model": "m"})
        assignment = Assignment(order, base, "t", self.ledger.identity(), (NAME,), 1)
        counting = CountingGrid(self.grid)  # type: ignore[arg-type]
        self.loop = RefinementLoop(
            refining, counting, self, self.ledger, assignment, list(BASE), 2, self.tell
        )
        self.on_event: Any = lambda _event: None

    def tell(self, event: Any) -> None:
        self.events.append(event.to_line())
        self.on_event(self.events[-1])

    def refresh(self) -> dict[str, Seat]:
        return {
            site: self.current(site)
            for site, each in self.everybody.items()
            if each.node.online_until > time.time()
        }

    def current(self, site: str) -> Seat:
        node = self.everybody[site].node
        return Seat(node.node_id, node.last_activated_at, site in self.newcomers)

    def site_of(self, node: int) -> str:
        return next(site for site, each in self.everybody.items() if each.node.node_id == node)

    def serve(self, newcomers: int, seconds: float = 20.0) -> None:
        began = time.monotonic()
        assert self.loop.run() is not None
        self.loop.stay(RECIPE, RECIPE, Stay(newcomers=newcomers, seconds=seconds))
        assert time.monotonic() - began < seconds, self.events

    def of_kind(self, kind: str) -> list[str]:
        return [event["site"] for event in self.events if event["kind"] == kind]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(mailbox, "LOOK_S", 0.0)
    yield


def test_two_that_come_at_once_are_served_one_after_another(tmp_path: Path) -> None:
    federation = Federation(
        tmp_path, Newcomer("x", 0.1, patience=5), Newcomer("y", 0.9, patience=5)
    )
    federation.serve(2)
    joins = [event for event in federation.events if event["kind"] == "traffic"]
    assert [event["site"] for event in joins] == ["x", "y"]
    for event in joins:
        moved = {
            site: {kind for kind, count in kinds.items() if count} - {POLL}
            for site, kinds in event["bytes"].items()
        }
        assert {site: kinds for site, kinds in moved.items() if kinds} == {
            event["site"]: {"query.describe", "query.refined"}
        }
    nearest = {
        event["site"]: event["nearest"] for event in federation.events if event["kind"] == "refined"
    }
    assert (nearest["x"], nearest["y"]) == ("a", "b")


def test_contributors_get_their_own_models_first(tmp_path: Path) -> None:
    federation = Federation(tmp_path, Newcomer("x"))
    federation.serve(1)
    events = [event for event in federation.events if event["kind"] == "delivered"]
    delivered = [(event["site"], event["why"]) for event in events]
    assert sorted(delivered[:2]) == [("a", "choice"), ("b", "choice")]
    assert delivered[2:] == [("x", "join")]
    assert federation.everybody["a"].asked == ["query.refined"]


@pytest.mark.parametrize("reason", ["TooFewSubjects: The hospital has 2 subjects", "ImageInvalid"])
def test_one_that_cannot_describe_itself_is_told_about_and_keeps_nobody_waiting(
    tmp_path: Path, reason: str
) -> None:
    federation = Federation(tmp_path, Newcomer("x", broken=reason), Newcomer("y"))
    federation.serve(1)
    assert [event["reason"] for event in federation.events if event["kind"] == "failed"] == [reason]
    assert federation.everybody["x"].asked == ["query.describe"]  # not again and again
    assert federation.of_kind("delivered")[-1] == "y"


@pytest.mark.parametrize("place", [float("nan"), float("inf")])
def test_a_description_that_is_none_is_told_about_and_keeps_nobody_waiting(
    tmp_path: Path, place: float
) -> None:
    federation = Federation(tmp_path, Newcomer("x", place), Newcomer("y"))
    federation.serve(1)
    assert federation.of_kind("failed") == ["x"] and federation.of_kind("delivered")[-1] == "y"
    assert list(federation.loop.refiner.newcomers()) == ["y"]


def test_a_name_that_leads_elsewhere_does_not_stop_the_coordinator(tmp_path: Path) -> None:
    federation = Federation(tmp_path, Newcomer("../x"), Newcomer("y"))
    federation.serve(1)
    assert federation.of_kind("failed") == ["../x"] and federation.of_kind("delivered")[-1] == "y"


def test_one_that_failed_is_asked_again_when_it_comes_back(tmp_path: Path) -> None:
    x = Newcomer("x", broken="ImageInvalid")
    federation = Federation(tmp_path, x)

    def mend(event: Any) -> None:
        if event["kind"] == "failed":
            x.broken = ""
            x.node.come_back()

    federation.on_event = mend
    federation.serve(1)
    assert x.asked == ["query.describe", "query.describe", "query.refined"]


def test_one_that_leaves_before_its_model_is_made_keeps_nobody_waiting(tmp_path: Path) -> None:
    x = Newcomer("x")
    federation = Federation(tmp_path, x, Newcomer("y"))
    federation.on_event = lambda event: (
        x.node.leave() if event["kind"] == "described" and event["site"] == "x" else None
    )
    federation.serve(1)
    assert federation.of_kind("described") == ["x", "y"]
    assert federation.of_kind("delivered")[-1] == "y" and "x" not in federation.of_kind("delivered")


def test_one_that_starts_again_over_the_question_is_asked_anew(tmp_path: Path) -> None:
    x = Newcomer("x")
    federation = Federation(tmp_path, x)
    answer = x.node.answer

    def die_once(message: Message) -> Message | None:
        if message.metadata.message_type != "query.describe":
            return answer(message)
        x.node.answer = answer
        federation.grid._out.clear()  # it has forgotten the question
        x.node.come_back()
        return None

    x.node.answer = die_once
    federation.serve(1)
    assert federation.of_kind("delivered")[-1] == "x"


def test_it_stays_so_long_and_not_longer(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    assert federation.loop.run() is not None
    began = time.monotonic()
    # nothing to stay for: every hospital that is online gets its model, then the loop ends
    federation.loop.stay(RECIPE, RECIPE, Stay())
    assert sorted(federation.of_kind("delivered")) == ["a", "b"] and time.monotonic() - began < 3
    began = time.monotonic()
    federation.loop.stay(RECIPE, RECIPE, Stay(seconds=0.5))
    assert 0.5 <= time.monotonic() - began < 4
