"""The event loop of merging: arrivals, refusals, absences, restarts, choice of parameters.

Hospitals are functions; there is no network.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message
from torch import Tensor

from polyclinic.federation.envelope.content import unpack_content, weights_from_message
from polyclinic.federation.events import Event
from polyclinic.federation.records import Order, evaluation_reply
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.state_dict import StateDict, pack
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic_strategies.merging.event_loop import EventLoop
from polyclinic_strategies.merging.messages import (
    Assignment,
    Handover,
    Verdict,
    confirm,
    hand_over,
    read_assignment,
    read_base,
)
from polyclinic_strategies.merging.strategy import Merging
from tests.fakes import FakeGrid, FakeNode, make_error

BASE: StateDict = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
NAMES = ["weight", "bias"]
TASK = "segmentation: background, tumour"
RULES = "polyclinic_strategies.merging.rules"
MEAN = {"_target_": f"{RULES}.mean.Mean"}


@dataclass
class Hospital:
    """A hospital that contributes `value` everywhere as soon as it has the base.

    Its score of a model is the higher, the nearer the mean of the weights is to `liked`.
    """

    site: str
    node: FakeNode
    folder: Path
    value: float = 1.0
    liked: float = 0.0
    claims: str = ""
    created: float = 1000.0
    ready: bool = True
    base: Tensor | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    broken: str = ""
    cut: bool = False  # the next contribution arrives without its end
    measures: bool = True  # the statistics that are asked for

    def answer(self, message: Message) -> Message | None:
        kind = message.metadata.message_type
        self.asked.append(kind)
        if self.broken:
            return make_error(message, self.broken)
        if kind == "query.base":
            self.base = weights_from_message(message)
            return confirm(message)
        if kind == "evaluate.score":
            score = -float((weights_from_message(message).mean() - self.liked).abs())
            return evaluation_reply(message, Evaluation(None, {}, score, 1), 0.0)
        assignment, verdicts = read_assignment(message)
        self.verdicts += verdicts
        if self.base is None:
            return hand_over(message, Handover(needs_base=True))
        if not self.ready or any(
            verdict.digest == self.path(assignment).stem for verdict in self.verdicts
        ):
            return hand_over(message, Handover(doing="waiting"))
        content = self.path(assignment).read_bytes()
        arriving, self.cut = content[:-1] if self.cut else content, False
        return hand_over(
            message, Handover(False, "", hashlib.sha256(content).hexdigest(), arriving)
        )

    def path(self, assignment: Assignment) -> Path:
        contribution = Contribution(
            self.claims or self.site, assignment.base, assignment.task, 4, {}, self.created, "1"
        )
        vector = {name: torch.full_like(tensor, self.value) for name, tensor in BASE.items()}
        wanted = assignment.statistics if self.measures else ()
        known = {"gram": torch.eye(3), "fisher": torch.ones(2, 3)}
        statistics = {f"{kind}/weight": known[kind] for kind in wanted}
        return write_contribution(self.folder / self.site, contribution, vector, statistics)


@dataclass
class Seat:
    node: int
    activated: str


class AllMembers:
    """All hospitals on the grid are members."""

    def __init__(self, grid: FakeGrid, hospitals: Mapping[str, Hospital]) -> None:
        self.grid, self.hospitals = grid, hospitals

    def refresh(self) -> dict[str, Seat]:
        here = set(self.grid.get_node_ids())
        return {
            site: self.current(site)
            for site, hospital in self.hospitals.items()
            if hospital.node.node_id in here
        }

    def current(self, site: str) -> Seat:
        node = self.hospitals[site].node
        return Seat(node.node_id, node.last_activated_at)


class World:
    """A coordinator and its hospitals, without a network."""

    def __init__(self, folder: Path, *sites: str, **strategy: Any) -> None:
        self.folder = folder
        self.hospitals: dict[str, Hospital] = {}
        self.grid = FakeGrid([])
        for site in sites:
            self.join(site)
        self.strategy = Merging(**{"title": "t", "rule": MEAN, "poll_s": 0.01, **strategy})
        self.events: list[Mapping[str, Any]] = []
        self.loop = self.restart()

    def note(self, event: Event) -> None:
        self.events.append(event.to_line())

    def join(self, site: str, **details: Any) -> Hospital:
        def answer(message: Message) -> Message | None:
            return self.hospitals[site].answer(message)

        node = FakeNode(len(self.hospitals) + 1, answer)
        self.grid.nodes[node.node_id] = node
        self.hospitals[site] = Hospital(site, node, self.folder, **details)
        return self.hospitals[site]

    def restart(self, *statistics: str) -> EventLoop:
        self.ledger = Ledger.open(self.folder / "ledger")
        base = self.ledger.add_base(BASE)
        order = Order(
            run="r", arm="a", seed=0, rounds=1, personal="none", version="1", names={"model": "m"}
        )
        assignment = Assignment(order, base, TASK, self.ledger.identity(), statistics)
        expected = len(self.hospitals)
        self.loop = EventLoop(
            self.strategy,
            self.grid,
            AllMembers(self.grid, self.hospitals),
            self.ledger,
            assignment,
            NAMES,
            expected,
            self.note,
        )
        return self.loop

    def step(self, seconds: float = 1.0, until: Any = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self.loop.mailbox._looked = float("-inf")  # look at once
            self.loop.step()
            time.sleep(0.002)

    def until_acknowledged(self, site: str) -> None:
        self.step(2.0, until=lambda: self.hospitals[site].verdicts)

    def kinds(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    def weights(self) -> Tensor:
        return pack(self.ledger.load_model(self.ledger.publications()[-1].digest), NAMES)


def test_hospitals_are_told_what_restoration_is_wanted_not_that_it_is_automatic(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, "a")
    assert world.strategy.restoration == "auto" and world.loop.strategy.restoration == "none"


def test_every_arrival_is_merged_and_published_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, "a", "b")
    world.hospitals["a"].value, world.hospitals["b"].value = 1.0, 3.0
    publication = world.loop.run()
    assert publication is not None and publication.number == 2
    assert torch.equal(world.weights(), torch.full((8,), 2.0))
    assert [event["sites"] for event in world.kinds("published")] == [["a"], ["a", "b"]]
    assert all(
        hospital.verdicts and hospital.verdicts[0].accepted for hospital in world.hospitals.values()
    )


def test_nobody_waits_for_a_hospital_that_takes_long(tmp_path: Path) -> None:
    world = World(tmp_path, "fast", "slow")
    world.hospitals["slow"].ready = False
    world.step(1.0, until=lambda: world.hospitals["fast"].verdicts)
    assert len(world.ledger.publications()) == 1 and not world.loop.is_over()
    world.hospitals["slow"].ready = True
    assert world.loop.run() is not None


def test_the_order_of_arrival_does_not_change_a_bit(tmp_path: Path) -> None:
    models = []
    for number, order in enumerate((("a", "b", "c"), ("c", "a", "b"))):
        world = World(tmp_path / str(number), "a", "b", "c")
        for value, hospital in zip((0.1, 0.7, -0.3), world.hospitals.values(), strict=True):
            hospital.value, hospital.ready = value, False
        for site in order:
            world.hospitals[site].ready = True
            world.until_acknowledged(site)
        models.append(world.ledger.publications()[-1].digest)
    assert models[0] == models[1]


def test_a_hospital_that_comes_back_before_anybody_noticed_is_asked_again(tmp_path: Path) -> None:
    world = World(tmp_path, "a")
    hospital = world.hospitals["a"]
    silent = hospital.node.answer
    hospital.node.answer = lambda message: None  # it was asked, and then its power went
    world.step(0.05)
    assert len(world.grid.pushed) == 1  # one open question, not one after another
    hospital.node.answer = silent
    world.grid._out.clear()
    hospital.node.come_back()
    world.step(2.0, until=lambda: hospital.verdicts)
    assert hospital.verdicts[0].accepted


def test_an_offline_hospital_is_not_asked_for_its_answer(tmp_path: Path) -> None:
    world = World(tmp_path, "a")
    hospital = world.hospitals["a"]
    hospital.node.answer = lambda message: None
    world.step(0.05)
    hospital.node.leave()
    waiting = len(world.grid._out)
    world.step(0.05)
    assert len(world.grid._out) == waiting  # asking an absent node would have destroyed the message
    hospital.node.answer = hospital.answer
    hospital.node.come_back()
    world.step(2.0, until=lambda: hospital.verdicts)
    assert hospital.verdicts


def test_a_refusal_reaches_the_hospital_and_the_events_and_harms_nobody(tmp_path: Path) -> None:
    world = World(tmp_path, "a", "b", end={"contributions": 1})
    world.hospitals["b"].claims = "a"  # says that it is another hospital
    world.step(2.0, until=lambda: world.hospitals["a"].verdicts and world.hospitals["b"].verdicts)
    (verdict,) = world.hospitals["b"].verdicts
    assert not verdict.accepted and "b" in verdict.reason
    (event,) = world.kinds("contribution_refused")
    assert event["error"] == "SiteMismatch" and event["site"] == "b"
    assert [entry.site for entry in world.ledger.active()] == ["a"]


def test_who_may_contribute_can_be_listed(tmp_path: Path) -> None:
    world = World(tmp_path, "a", "b", sites=["a"], end={"sites": ["a"]})
    assert world.loop.run() is not None
    world.step(1.0, until=lambda: world.hospitals["b"].verdicts)
    assert not world.hospitals["b"].verdicts[0].accepted


def test_a_damaged_handover_is_asked_for_again(tmp_path: Path) -> None:
    world = World(tmp_path, "a")
    world.hospitals["a"].cut = True
    assert world.loop.run() is not None
    assert len(world.ledger.entries()) == 1 and not world.kinds("contribution_refused")


def test_a_restart_takes_up_from_the_ledger_and_counts_nothing_twice(tmp_path: Path) -> None:
    world = World(tmp_path, "a", "b")
    world.hospitals["b"].ready = False
    world.step(2.0, until=world.ledger.publications)
    world.ledger.close()
    # the coordinator died before it sent the verdict: the hospital hands over again
    world.hospitals["a"].verdicts.clear()
    world.hospitals["b"].ready = True
    world.grid._out.clear()
    world.restart().run()
    assert [event["site"] for event in world.kinds("duplicate")] == ["a"]
    assert sorted(entry.site for entry in world.ledger.entries()) == ["a", "b"]
    assert world.hospitals["a"].verdicts[0].accepted
    assert world.ledger.verify() is None


def test_a_contribution_without_what_another_strategy_needs_does_not_count_for_it(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, "a", "b")
    assert world.loop.run() is not None
    assert not world.kinds("reused")
    world.ledger.close()
    for hospital in world.hospitals.values():
        hospital.verdicts.clear()
        hospital.created = 2000.0  # it trains again
    world.restart("gram")
    assert world.loop.publisher.entries() == [] and not world.loop.is_over()
    assert world.loop.run() is not None
    assert len(world.ledger.entries()) == 4 and not world.kinds("reused")
    world.ledger.close()
    world.restart().run()  # what holds more is good enough for who needs less
    assert [event["sites"] for event in world.kinds("reused")] == [["a", "b"]]


def test_a_hospital_that_leaves_out_what_was_asked_for_is_told_so(tmp_path: Path) -> None:
    world = World(tmp_path, "a", "b", end={"contributions": 1})
    world.hospitals["b"].measures = False
    world.restart("fisher", "gram")
    world.step(2.0, until=lambda: world.hospitals["a"].verdicts and world.hospitals["b"].verdicts)
    assert world.hospitals["a"].verdicts[0].accepted
    (verdict,) = world.hospitals["b"].verdicts
    assert not verdict.accepted and "fisher" in verdict.reason and "gram" in verdict.reason
    assert [event["error"] for event in world.kinds("contribution_refused")] == [
        "StatisticsMissing"
    ]


def test_a_newer_contribution_supersedes_and_a_late_older_one_does_not(tmp_path: Path) -> None:
    world = World(tmp_path, "a", end={"contributions": 0})
    hospital = world.hospitals["a"]
    hospital.value, hospital.created = 1.0, 2000.0
    world.step(2.0, until=lambda: hospital.verdicts)
    hospital.value, hospital.created = 5.0, 1000.0  # was on its way for long
    world.step(2.0, until=lambda: len(hospital.verdicts) == 2)
    assert torch.equal(world.weights(), torch.full((8,), 1.0))
    hospital.value, hospital.created = 3.0, 3000.0
    world.step(2.0, until=lambda: len(hospital.verdicts) == 3)
    assert torch.equal(world.weights(), torch.full((8,), 3.0))


def test_a_hospital_that_is_withdrawn_meanwhile_leaves_the_model(tmp_path: Path) -> None:
    world = World(tmp_path, "a", "b", end={"contributions": 0})
    world.hospitals["b"].value = 3.0
    world.until_acknowledged("a")
    world.until_acknowledged("b")
    with Ledger.open(tmp_path / "ledger") as another:
        another.withdraw("b", "asked for it")
    world.step(2.0, until=lambda: len(world.kinds("published")) == 3)
    assert torch.equal(world.weights(), torch.full((8,), 1.0))
    assert world.kinds("published")[-1]["why"] == "withdrawal"


def test_the_hospitals_choose_the_scale(tmp_path: Path) -> None:
    rule = {"_target_": f"{RULES}.sum.Sum", "scale": 0.25}
    world = World(tmp_path, "a", "b", rule=rule, candidates={"scale": [0.25, 0.5, 1.0]})
    for hospital in world.hospitals.values():
        hospital.value, hospital.liked = 1.0, 1.1  # two vectors of ones: scale 0.5 comes nearest
    publication = world.loop.run()
    assert publication is not None and publication.recipe["parameters"]["scale"] == 0.5
    assert world.kinds("published")[-1]["why"] == "parameters"
    figures = [event for event in world.kinds("answered") if event["round"] == publication.number]
    assert {event["site"] for event in figures} == {"a", "b"}
    world.ledger.close()
    again = world.restart()
    assert again.run() == publication  # the choice outlasts a restart


def test_a_hospital_that_cannot_score_does_not_hold_up_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, "a", "b", end={"contributions": 1})
    world.hospitals["b"].broken = "DataError"
    assert world.loop.run() is not None
    assert world.kinds("failed")


def test_a_contribution_to_an_older_base_counts_less_or_not_at_all(tmp_path: Path) -> None:
    for allowed, wanted in ((1, 0.5 * 1.0), (0, None)):
        world = World(tmp_path / str(allowed), "a", max_staleness=allowed, end={"contributions": 0})
        world.until_acknowledged("a")
        newer = {name: tensor + 10.0 for name, tensor in BASE.items()}
        world.ledger.add_base(newer)
        assert len(world.loop.publisher.entries()) == allowed
        if wanted is not None:
            merged = world.loop.publisher.merge(world.loop.candidates.chosen)
            assert torch.equal(pack(merged, NAMES), torch.full((8,), 10.0 + wanted))


def test_a_run_without_an_end_goes_on_and_one_with_a_time_stops(tmp_path: Path) -> None:
    world = World(tmp_path, "a", end={"contributions": 0})
    world.step(2.0, until=lambda: world.hospitals["a"].verdicts)
    assert not world.loop.is_over()
    world.ledger.close()
    timed = World(tmp_path / "timed", "a", end={"contributions": 0, "seconds": 2.0})
    assert timed.loop.run() is not None


def test_a_rule_that_needs_more_hospitals_publishes_when_they_have_come(tmp_path: Path) -> None:
    world = World(
        tmp_path, "a", "b", "c", "d", "e", rule={"_target_": f"{RULES}.krum.Krum", "byzantine": 1}
    )
    assert world.loop.run() is not None
    assert world.kinds("note") and len(world.kinds("published")) == 1


def test_the_messages_survive_their_round_trip(tmp_path: Path) -> None:
    world = World(tmp_path, "a")
    world.loop.run()
    sent = [
        message for message in world.grid.pushed if message.metadata.message_type == "query.base"
    ]
    order, digest = read_base(sent[0])
    assert digest == world.ledger.bases()[-1] and order.arm == "a"
    assert "arrays" in unpack_content(sent[0].content)
