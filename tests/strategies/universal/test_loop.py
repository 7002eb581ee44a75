"""The event loop of a stage: contributions, refusals, withdrawals."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.federation.events import Event
from polyclinic.federation.records import Order
from polyclinic.learning.site_tasks import SiteTask
from polyclinic.learning.state_dict import StateDict
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic_strategies.merging.messages import Assignment, Handover
from polyclinic_strategies.merging.strategy import Merging
from polyclinic_strategies.universal.exchange import EMBEDDING, TASK, declare_in_numbers
from polyclinic_strategies.universal.loop import Stage, UniversalLoop
from tests.fakes import FakeGrid

BASE: StateDict = {"encoder.w": torch.zeros(2, 3)}
DECLARED = declare_in_numbers(SiteTask("segmentation", 2, 1, 2))
STATISTICS = {"embedding.mean": torch.zeros(4), "embedding.covariance": torch.eye(4)}
ORDER = Order("run", "universal", 0, 1, "none", "1", {}, {}, {})
RULE = {"_target_": "polyclinic_strategies.merging.rules.mean.Mean"}


class Nobody:
    """Members without hospitals."""

    def refresh(self) -> dict[str, Any]:
        return {}

    def current(self, _site: str) -> None:
        return None


class World:
    """A stage without a network."""

    def __init__(self, folder: Path, **strategy: Any) -> None:
        self.folder = folder
        self.ledger = Ledger.open(folder / "ledger")
        self.base = self.ledger.add_base(BASE)
        self.events: list[Mapping[str, Any]] = []
        assignment = Assignment(ORDER, self.base, TASK, self.ledger.identity(), (EMBEDDING,))
        merging = Merging("t", RULE, poll_s=0.0, **strategy)
        stage, grid = Stage(1, 2, 0, 4), FakeGrid([])
        self.loop = UniversalLoop(
            merging,
            grid,  # type: ignore[arg-type]
            Nobody(),
            self.ledger,
            assignment,
            list(BASE),
            stage,
            self.note,
        )

    def note(self, event: Event) -> None:
        self.events.append(event.to_line())

    def hand_over(
        self,
        site: str,
        statistics: StateDict = STATISTICS,
        metrics: Mapping[str, float] = DECLARED,
        **changes: Any,
    ) -> Any:
        base, task = changes.get("base", self.base), changes.get("task", TASK)
        vector = changes.get("vector", {"encoder.w": torch.ones(2, 3)})
        said = Contribution(site, base, task, 4, metrics, 1.0, "1")
        content = write_contribution(self.folder / "out", said, vector, statistics).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return self.loop.receive(site, Handover(False, "", digest, content))


def test_a_contribution_is_kept_told_and_not_published(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.hand_over("a").accepted
    assert not world.loop.is_over()
    assert world.hand_over("b").accepted
    assert world.loop.is_over()
    assert [entry.site for entry in world.loop.gather()] == ["a", "b"]
    assert [event["kind"] for event in world.events] == ["contribution"] * 2 + ["reused"]
    assert not world.ledger.publications()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"statistics": {}}, "lacks the statistic embedding"),
        (
            {"statistics": {**STATISTICS, "embedding.mean": torch.zeros(3)}},
            "statistics are not those",
        ),
        ({"statistics": {**STATISTICS, "head.weight": torch.zeros(3)}}, "statistics are not those"),
        ({"metrics": {"loss": 1.0}}, "what kind of task"),
        ({"vector": {"encoder.w": torch.ones(2, 3), "head.weight": torch.ones(2)}}, "head.weight"),
        ({"base": "0" * 64}, "base"),
        ({"task": "segmentation"}, "task"),
    ],
)
def test_what_nobody_could_learn_from_is_refused_with_its_reason(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    world = World(tmp_path)
    verdict = world.hand_over("a", **changes)
    assert not verdict.accepted and sentence in verdict.reason
    assert [event["kind"] for event in world.events] == ["contribution_refused"]
    assert not world.ledger.active()


def test_what_is_no_contribution_at_all_is_refused_by_the_ledger(tmp_path: Path) -> None:
    world = World(tmp_path)
    verdict = world.loop.receive(
        "a", Handover(False, "", hashlib.sha256(b"nothing").hexdigest(), b"nothing")
    )
    assert not verdict.accepted
    assert [line.kind for line in world.ledger.history()][-1] == "refused"


def test_a_hospital_that_is_withdrawn_is_told_and_does_not_count(tmp_path: Path) -> None:
    world = World(tmp_path)
    for site in ("a", "b"):
        world.hand_over(site)
    world.loop.step()
    world.ledger.withdraw("a", "for the test")
    world.loop.step()
    assert (world.events[-1]["kind"], world.events[-1]["site"]) == ("withdrawn", "a")
    assert not world.loop.is_over()
    assert [entry.site for entry in world.loop.publisher.entries()] == ["b"]
