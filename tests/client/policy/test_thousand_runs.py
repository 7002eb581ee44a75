"""A thousand runs, each of which exceeds a hospital's policy in one place: none reads any data."""

import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from polyclinic.errors import PolyclinicError
from polyclinic.federation.envelope import make_message
from polyclinic.federation.envelope.content import ARRAYS, CONFIG, weights_to_record
from polyclinic.federation.records import order_to_config
from polyclinic_client.fleet.app import app
from polyclinic_client.policy.asked import read_asked
from polyclinic_client.policy.decisions import decide, note_asked
from polyclinic_client.policy.policy import FILE
from polyclinic_client.site.open_sites import close_site
from tests.client.site.test_site import data, order  # noqa: F401

RUNS = 1000
METHODS = {
    "query.hello": ("averaging", "merging", "refinement", "universal"),
    "train": ("averaging",),
    "evaluate": ("averaging",),
    "evaluate.test": ("averaging",),
    "evaluate.score": ("merging",),
    "query.collect": ("merging",),
    "query.base": ("merging",),
    "query.describe": ("refinement",),
    "query.refined": ("refinement",),
}
BUILDS = ("query.hello", "train", "evaluate", "evaluate.test", "evaluate.score", "query.describe")
TRAINS = ("query.hello", "train", "query.collect")


@dataclass
class Case:
    """One place in which a run exceeds a policy.

    Attributes:
        kinds: Types of the questions that can.
        policy: Lines of policy.yaml, drawn for a question.
        error: Type of the refusal.
        decided: Whether a person has refused.
    """

    kinds: tuple[str, ...]
    policy: Callable[[random.Random, dict[str, Any]], str]
    error: str = "NotAllowed"
    decided: bool = field(default=False, kw_only=True)


def _others(name: str, key: str, known: tuple[str, ...]) -> Case:
    def draw(random: random.Random, config: dict[str, Any]) -> str:
        asked = config.get(key, "")
        asked = asked[0] if isinstance(asked, list) else asked
        other = [each for each in known if each != asked]
        return f"{name}: [{', '.join(random.sample(other, random.randint(0, len(other))))}]"

    kinds = ("query.describe",) if name == "statistics" else tuple(METHODS)
    return Case(kinds, draw)


CASES = {
    "strategies": _others("strategies", "method", ("averaging", "merging", "planning", "proxy")),
    "models": _others("models", "name.model", ("unet", "unet_2d", "dynunet")),
    "tasks": _others("tasks", "name.data", ("brain_tissue", "planned", "brain_tissue_slices")),
    "statistics": _others("statistics", "statistics", ("correlation", "histogram", "x")),
    "approval": Case(tuple(METHODS), lambda *_: "approval: true"),
    "refused": Case(tuple(METHODS), lambda *_: "", decided=True),
    "secure_sums": Case(TRAINS, lambda *_: "secure_sums: true"),
    "epsilon": Case(TRAINS, lambda random, _: f"epsilon: {random.uniform(0.1, 20):.3f}"),
    "epsilon_budget": Case(
        TRAINS, lambda random, _: f"epsilon_budget: {random.uniform(0.1, 20):.3f}"
    ),
    "min_subjects": Case(
        ("query.describe",), lambda random, _: f"min_subjects: {random.randint(4, 99)}",
        "TooFewSubjects",
    ),
    "epochs": Case(
        BUILDS, lambda random, config: f"epochs: {random.randint(1, config['rounds'] - 1)}",
        "LimitExceeded",
    ),
    "memory_gb": Case(
        BUILDS, lambda random, _: f"memory_gb: {random.uniform(1e-9, 1e-5):.12f}", "LimitExceeded"
    ),
    "releases": Case(("query.describe",), lambda *_: "releases: 0", "LimitExceeded"),
    "damaged": Case(
        tuple(METHODS), lambda random, _: random.choice(["epochs: [", "x: 1", "epochs: 0", "- 1"]),
        "PolicyDamaged",
    ),
}  # fmt: skip


class Opened:
    """Files below a folder that this process opens while it is watched."""

    def __init__(self) -> None:
        self.folder, self.paths = "", list[str]()
        sys.addaudithook(self._hear)  # it stays, and hears nothing without a folder

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.fsdecode(arguments[0])
            if path.startswith(self.folder):
                self.paths.append(path)


OPENED = Opened()


@pytest.fixture
def watched(data: Path) -> Iterator[Opened]:  # noqa: F811
    OPENED.folder, OPENED.paths = str(data), []
    yield OPENED
    OPENED.folder = ""


def question(kind: str, method: str, rounds: int, weights: torch.Tensor) -> Message:
    config: dict[str, Any] = {**order_to_config(order(method=method)[0])}
    config |= {"rounds": rounds, "server-round": 1, "base": "b" * 64, "number": 1}
    config |= {"statistics": ["correlation"], "min-subjects": 3, "noise-multiplier": 0.0}
    if kind == "query.collect":
        lists: dict[str, Any] = {f"verdict.{name}": [] for name in ("digests", "reasons")}
        config |= {"task": "t", "ledger": "e" * 64, "verdict.accepted": [], **lists}
    content = RecordDict({CONFIG: ConfigRecord(config)})
    if kind not in ("query.hello", "query.collect"):
        content[ARRAYS] = weights_to_record(weights)
    return make_message(content, 7, kind)


def ask(message: Message, context: Context) -> str:
    """Return how a question is refused; empty where it is not."""
    try:
        reply = app(message, context)
    except PolyclinicError as error:
        return type(error).__name__
    return str(reply.content[CONFIG].get("refusal", "")).partition(":")[0].partition(" ")[0]


def test_a_run_that_exceeds_a_policy_in_one_place_is_refused_before_data_is_read(
    data: Path,  # noqa: F811
    tmp_path: Path,
    watched: Opened,
) -> None:
    draw, refused = random.Random(0), Counter[str]()
    weights = order()[1]
    questions = {
        (kind, method): question(kind, method, 3, weights)
        for kind, methods in METHODS.items()
        for method in methods
    }
    state = tmp_path / "state"
    state.mkdir()
    config = {"site": "mprage-3t", "data": str(data), "state": str(state), "leaves": "not at all"}
    close_site(dict(config))
    for number in range(RUNS):
        name = draw.choice(list(CASES))
        case = CASES[name]
        kind = draw.choice(case.kinds)
        message = questions[kind, draw.choice(METHODS[kind])]
        flat = dict(message.content[CONFIG])
        flat["run"] = f"run-{number}" if case.decided else "run"
        told = RecordDict({**message.content, CONFIG: ConfigRecord(flat)})
        (state / FILE).write_text(f"{case.policy(draw, flat)}\n")
        if case.decided:
            note_asked(state, read_asked(flat))
            decide(state, f"run-{number}", approved=False, reason="no")
        context = Context(1, 7, config, RecordDict(), {})
        found = ask(make_message(told, 7, kind), context)
        assert found == case.error, (number, name, kind, found)
        read = {Path(path).name for path in watched.paths}
        assert read <= {"dataset.json"}, (number, name, kind, read)
        refused[name] += 1
    assert sum(refused.values()) == RUNS and set(refused) == set(CASES)
