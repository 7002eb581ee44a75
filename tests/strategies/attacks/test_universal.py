"""A hospital that lies in a stage of the universal model: the stage ends with the others'."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.learning.site_tasks import SiteTask
from polyclinic.learning.state_dict import StateDict
from polyclinic.store.ledger import Ledger
from polyclinic_strategies.merging import mailbox
from polyclinic_strategies.merging.asking import calls
from polyclinic_strategies.merging.messages import Assignment
from polyclinic_strategies.merging.strategy import Merging
from polyclinic_strategies.universal.exchange import EMBEDDING, TASK, declare_in_numbers
from polyclinic_strategies.universal.loop import Stage, UniversalLoop
from tests.strategies.attacks.on_arrival import ANSWERS, FILES, contributed
from tests.strategies.attacks.twins import BASE, HONEST, LIAR, NAMES, ORDER, Attack, Federation

DECLARED = declare_in_numbers(SiteTask("segmentation", 2, 1, 2))
MEAN, COVARIANCE = "embedding.mean", "embedding.covariance"
STATISTICS: StateDict = {MEAN: torch.zeros(4), COVARIANCE: torch.eye(4)}
MEAN_RULE = {"_target_": "polyclinic_strategies.merging.rules.mean.Mean"}
COLLECT = "query.collect"


def taught(
    statistics: StateDict | None = None, metrics: dict[str, float] | None = None, **changes: Any
) -> Any:
    told = {**STATISTICS, **(statistics or {})}
    said = DECLARED if metrics is None else metrics
    return contributed(statistics=told, metrics=said, **changes)


TEACHING = [
    Attack("no declaration", COLLECT, taught(metrics={})),
    Attack("1e300 classes", COLLECT, taught(metrics={**DECLARED, "classes": 1e300})),
    Attack("-1 channels", COLLECT, taught(metrics={**DECLARED, "channels": -1.0})),
    Attack("no statistics", COLLECT, contributed(statistics={}, metrics=DECLARED)),
    Attack("a mean of 3", COLLECT, taught({MEAN: torch.zeros(3)})),
    Attack("a mean of NaN", COLLECT, taught({MEAN: torch.full((4,), math.nan)})),
    Attack("a mean of 3e38", COLLECT, taught({MEAN: torch.full((4,), 3e38)})),
    Attack("a covariance of shape (1, 1)", COLLECT, taught({COVARIANCE: torch.ones(1, 1)})),
    Attack("a variance below zero", COLLECT, taught({COVARIANCE: -torch.eye(4)})),
    Attack("a covariance of 1e30", COLLECT, taught({COVARIANCE: 1e30 * torch.eye(4)})),
    Attack("no covariance", COLLECT, taught({COVARIANCE: torch.triu(torch.ones(4, 4))})),
    Attack("a head", COLLECT, taught({"head.weight": torch.ones(2)})),
]
HANDED = [each for each in FILES if each.named and each.name != "statistics unasked"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "LOOK_S", 0.01)
    monkeypatch.setattr(calls, "SLOW_CALL_S", 0.0)


@pytest.mark.parametrize("attack", [*TEACHING, *ANSWERS, *HANDED], ids=str)
def test_a_stage_ends_with_those_that_taught(tmp_path: Path, attack: Attack) -> None:
    federation = Federation(tmp_path, attack)
    some = HONEST[:2]
    federation.grid.nodes = {
        number: node
        for number, node in federation.grid.nodes.items()
        if number <= len(some) or node.name == LIAR
    }
    for twin in (*federation.twins.values(), federation.liar):
        twin.statistics, twin.metrics = dict(STATISTICS), dict(DECLARED)
    ledger = Ledger.open(tmp_path / "ledger")
    assignment = Assignment(ORDER, ledger.add_base(BASE), TASK, ledger.identity(), (EMBEDDING,))
    merging = Merging("t", MEAN_RULE, poll_s=0.01, end={"sites": [*some, LIAR]})
    loop = UniversalLoop(
        merging,
        federation.grid,
        federation.attendance,
        ledger,
        assignment,
        NAMES,
        Stage(1, 3, 0, 4),
        federation.note,
    )
    loop.mailbox.patience_s = 0.3

    assert [entry.site for entry in loop.gather()] == list(some)
    assert federation.blamed() == {LIAR}
    assert federation.told()
