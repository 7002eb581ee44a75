"""A coordinator that lies: each lie ends in a refusal that both sides read, and nothing is done."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor

from polyclinic.config.jobs import job_digests, load_job
from polyclinic.errors import PolyclinicError
from polyclinic.federation.envelope import encode, make_message
from polyclinic.federation.envelope.content import ARRAYS, CONFIG, weights_to_record
from polyclinic.federation.method import methods
from polyclinic.federation.records import Order, order_to_config
from polyclinic.fleet.blobs import BlobStore
from polyclinic.learning import training
from polyclinic_client.fleet.app import app
from polyclinic_client.fleet.worker import Worker
from polyclinic_client.policy.limits import within_limits
from polyclinic_client.policy.policy import keep_policy
from polyclinic_client.site.open_sites import close_site
from polyclinic_strategies.merging.messages import Assignment, ask_for_contribution
from tests.client.site.test_site import data, order  # noqa: F401

BASE, LEDGER = "b" * 64, "e" * 64
HUGE = 1_000_000


@dataclass(frozen=True)
class Lie:
    """What is changed in a question that was honest.

    Attributes:
        changes: Scalars; None takes one away.
        error: Type of the refusal.
        kind: Of the question.
        weights: Changes the weights.
        method: Name of the method that is asked for.
        honest_digests: Whether the coordinator computes the digests of its lie.
    """

    changes: Mapping[str, Any]
    error: str
    kind: str = "train"
    weights: Callable[[Tensor], Tensor] | None = None
    method: str = ""
    honest_digests: bool = field(default=True, kw_only=True)


def of_code() -> dict[str, Lie]:
    settings = {
        "a target by a dot": ("training.optimizer._target_", "torch.optim.SGD"),
        "a target by brackets": ("training.optimizer[_target_]", "torch.optim.SGD"),
        "a target, all in brackets": ("training[loss][_target_]", "os.system"),
        "the model's target": ("model[_target_]", "monai.networks.nets.SegResNet"),
        "a transform's target": ("data.intensity[0][_target_]", "monai.transforms.RandFlipd"),
        "a transform's argument": ("data.intensity.0.keys", "label"),
        "Hydra's own key": ("model._recursive_", False),
        "an environment variable": ("data.orientation", "${oc.env:HOME}"),
        "a decoded expression": ("training.epochs", "${oc.decode:'2'}"),
        "an interpolation in a list": ("data.labels", ["background", "${oc.env:HOME}"]),
        "a setting that is not a job's": ("deployment.runs", "/tmp"),
        "a setting that is none": ("training.unknown", 1),
        "a word for a number": ("training.epochs", "2"),
        "infinity": ("training.learning_rate", math.inf),
        "no number": ("training.learning_rate", math.nan),
        "a group": ("training", 1),
    }
    lies = {
        name: Lie({f"set.{key}": value}, "ConfigError") for name, (key, value) in settings.items()
    }
    return {
        **lies,
        "a path for a name": Lie({"name.model": "../../etc/passwd"}, "ConfigError"),
        "an absolute path for a name": Lie({"name.data": "/etc/passwd"}, "ConfigError"),
        "a number for a name": Lie({"name.model": 7}, "ConfigError"),
        "another group": Lie({"name.strategy": "refinement"}, "ConfigError"),
        "a name that is none": Lie({"name.model": "unknown"}, "UnknownName"),
        "a method that is none": Lie({"method": "unknown"}, "MethodMissing"),
        "a package that is none": Lie({"plugin.evil": "1.0"}, "PluginMismatch"),
        "too many settings": Lie({f"set.model.a{n}": 1 for n in range(500)}, "ConfigError"),
        "another job's digests": Lie(
            {"set.training.batch_size": 3}, "ConfigMismatch", honest_digests=False
        ),
    }


def of_place_and_size() -> dict[str, Lie]:
    return {
        "a folder above": Lie({"run": "../../etc"}, "ConfigError"),
        "an absolute folder": Lie({"run": "/etc"}, "ConfigError"),
        "folders inside": Lie({"arm": "a/b"}, "ConfigError"),
        "dots": Lie({"arm": ".."}, "ConfigError"),
        "a line end": Lie({"run": "run\n"}, "ConfigError"),
        "a long name": Lie({"run": "r" * 5000}, "ConfigError"),
        "no run": Lie({"run": None}, "ConfigError"),
        "endless epochs": Lie({"set.training.epochs": HUGE}, "LimitExceeded"),
        "endless rounds": Lie({"rounds": HUGE}, "LimitExceeded"),
        "a round after the last": Lie({"server-round": 4}, "LimitExceeded"),
        "rounds below zero": Lie({"rounds": -1}, "ConfigError"),
        "a word for a round": Lie({"server-round": "1"}, "ConfigError"),
        "a seed beyond all": Lie({"seed": 2**40}, "ConfigError"),
        "endless restoration": Lie(
            {"restoration": "steps", "restoration-steps": HUGE}, "LimitExceeded", "evaluate"
        ),
        "an infinite pull": Lie({"proximal-mu": math.inf}, "ConfigError"),
        "huge patches": Lie({"set.data.patch": [HUGE, HUGE]}, "LimitExceeded"),
        "huge batches": Lie({"set.training.batch_size": HUGE}, "LimitExceeded"),
        "a huge network": Lie({"set.model.channels": [HUGE] * 4}, "LimitExceeded"),
        "an endless grid": Lie({"set.data.spacing_mm": [0.001] * 3}, "ConfigError"),
    }


def of_weights() -> dict[str, Lie]:
    shapes: dict[str, Callable[[Tensor], Tensor]] = {
        "too few": lambda weights: weights[1:],
        "too many": lambda weights: torch.cat([weights, weights]),
        "none": lambda weights: weights[:0],
        "NaN": lambda weights: torch.full_like(weights, math.nan),
        "one infinity": lambda weights: torch.cat([weights[1:], torch.tensor([math.inf])]),
    }
    kinds = {
        "train": "",
        "evaluate": "",
        "evaluate.test": "",
        "query.refined": "refinement",
        "query.describe": "refinement",
        "query.base": "merging",
    }
    return {
        f"weights, {name}, in {kind}": Lie({}, "WeightsInvalid", kind, change, method)
        for name, change in shapes.items()
        for kind, method in kinds.items()
    }


def of_statistics() -> dict[str, Lie]:
    def describe(error: str, changes: Mapping[str, Any], method: str = "refinement") -> Lie:
        return Lie(changes, error, "query.describe", method=method)

    return {
        "one subject": describe("TooFewSubjects", {"min-subjects": 1}),
        "no subject": describe("ConfigError", {"min-subjects": 0}),
        "subjects below zero": describe("ConfigError", {"min-subjects": -5}),
        "noise below zero": describe("ConfigError", {"noise-multiplier": -1.0}),
        "noise that is none": describe("ConfigError", {"noise-multiplier": math.nan}),
        "no condition": describe("ConfigError", {"min-subjects": None}),
        "an unknown statistic": describe("UnknownName", {"statistics": ["the_first_image"]}),
        "a statistic of layers": describe("UnknownName", {"statistics": ["gram"]}),
        "too many statistics": describe("ConfigError", {"statistics": ["correlation"] * 500}),
        "a number for a statistic": describe("ConfigError", {"statistics": [7]}),
        "a description in averaging": describe("ConfigError", {}, ""),
    }


def of_contributions() -> dict[str, Lie]:
    def collect(changes: Mapping[str, Any]) -> Lie:
        return Lie(changes, "ConfigError", "query.collect", method="merging")

    return {
        "a base elsewhere": collect({"base": "../" * 20 + "etc/passwd"}),
        "a ledger elsewhere": collect({"ledger": "/etc"}),
        "a verdict elsewhere": collect({"verdict.digests": ["../x"], "verdict.accepted": [True]}),
        "verdicts that do not pair": collect({"verdict.accepted": [True]}),
        "a verdict that is none": collect({"verdict.accepted": ["yes"]}),
        "no task": collect({"task": None}),
        "an endless task": collect({"task": "t" * 10_000}),
        "an assignment over nobody": collect({"min-subjects": 0}),
        "a base that is none": Lie({"base": "../x"}, "ConfigError", "query.base", method="merging"),
        "a number below zero": Lie(
            {"number": -1}, "ConfigError", "query.refined", method="refinement"
        ),
    }


LIES = {
    **of_code(),
    **of_place_and_size(),
    **of_weights(),
    **of_statistics(),
    **of_contributions(),
}


@pytest.fixture
def worker(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:  # noqa: F811
    """A hospital's worker, which must neither train nor train in vain."""

    def fit(*_: object, **__: object) -> None:
        raise AssertionError("training began")

    for method in methods().values():  # imported now, nothing keeps what is patched
        method.load("hospital")
    monkeypatch.setattr(training, "fit", fit)
    state = tmp_path / "state"
    keep_policy(state, memory_gb=4.0)
    keep_policy(state, min_subjects=4)  # the hospital has 3
    config = {"site": "mprage-3t", "data": str(data), "state": str(state)}
    close_site(dict(config))
    return Worker(app, BlobStore(tmp_path / "blobs"), config, lambda: within_limits(state))


def tell(lie: Lie) -> Message:
    """Make the question."""
    asked, weights = order(method=lie.method)
    config = question_of(lie, asked)
    for key, value in lie.changes.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    if lie.honest_digests:
        config |= digests_of(config)
    content = RecordDict({CONFIG: ConfigRecord(config)})
    if lie.kind != "query.collect":
        changed = weights if lie.weights is None else lie.weights(weights)
        content[ARRAYS] = weights_to_record(changed)
    return make_message(content, 7, lie.kind)


def question_of(lie: Lie, asked: Order) -> dict[str, Any]:
    if lie.kind == "query.collect":
        question = ask_for_contribution(Assignment(asked, BASE, "t", LEDGER), [], 7)
        return dict(question.content[CONFIG])
    config: dict[str, Any] = {**order_to_config(asked), "server-round": 1, "base": BASE}
    if lie.kind == "query.describe":
        config |= {"statistics": ["correlation"], "min-subjects": 1, "noise-multiplier": 0.0}
    return config


def digests_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Compute the digests of what is asked, as far as it is a job at all."""
    names, settings = (
        {key[len(mark) :]: value for key, value in config.items() if key.startswith(mark)}
        for mark in ("name.", "set.")
    )
    try:
        found = job_digests(load_job(names, settings))
    except PolyclinicError:
        return {}
    return {f"digest.{group}": value for group, value in found.items()}


def files_of(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] not in ("state", "blobs")
    }


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_where_both_sides_read_it(
    name: str, worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lie = LIES[name]
    before = files_of(tmp_path)
    envelope = encode(tell(lie), worker._store)
    with caplog.at_level(logging.INFO, "polyclinic.worker"):
        answer = worker.answer(envelope)
    kind, _, text = answer.fault.reason.partition(": ")
    assert kind == lie.error, answer.fault.reason
    assert 20 < len(text) < 1000 and text.rstrip().endswith(".")
    assert text.splitlines()[0] in caplog.text  # with the whole story
    assert files_of(tmp_path) == before
    made = {path.name for path in (tmp_path / "state").glob("*")}
    assert made <= {"status.json", "assignments", "policy.yaml", "asked"}


def test_there_are_many_lies() -> None:
    assert len(LIES) > 80
    assert len({lie.kind for lie in LIES.values()}) == 7


def test_the_same_questions_without_a_lie_are_answered(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = training.FitResult(0.5, 1, 1)
    monkeypatch.setattr(training, "fit", lambda *_, **__: result)
    for kind, method in {
        "train": "",
        "evaluate": "",
        "query.collect": "merging",
        "query.refined": "refinement",
    }.items():
        answer = worker.answer(encode(tell(Lie({}, "", kind, None, method)), worker._store))
        assert answer.WhichOneof("body") == "content", answer.fault.reason
