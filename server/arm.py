"""What the strategies without rounds share within a run: how they begin, where their ledger lies, and what they are for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from polyclinic.schemas import Config
from server.run_folder import RunFolder, read_lines
from strategies.merging.strategy import Merging
from strategies.records import Order


def announce(folder: RunFolder, order: Order, title: str, expected: int) -> None:
    """Say that a strategy begins, or that it goes on after a restart."""
    earlier = any(event["kind"] == "arm_start" and event["arm"] == order.arm for event in read_lines(folder.path / "events.jsonl"))
    details = {"title": title, "rounds": order.rounds, "offset": 0, "expected": expected}
    folder.record({"kind": "arm_start", "arm": order.arm, **details})
    if earlier:
        folder.record({"kind": "resumed"})


def expected_contributions(config: Config, merging: Merging) -> int:
    """After how many contributions the first phase is over."""
    deployment = config.deployment
    return merging.make_end(max(deployment.hospitals, deployment.min_hospitals)).contributions


def ledger_folder(folder: RunFolder, merging: Merging) -> Path:
    """The configured ledger, or the run's own."""
    return Path(merging.ledger) if merging.ledger else folder.path / "ledger"


def task_of(config: Config) -> str:
    """What a contribution must be for: two tasks never mix."""
    return f"{config.data.task}: {', '.join(config.data.labels)}"


def record_as(folder: RunFolder, name: str) -> Callable[[Mapping[str, Any]], None]:
    """Records events as another arm's: a model that is compared with."""

    def tell(event: Mapping[str, Any]) -> None:
        folder.record({**event, "arm": name})

    return tell
