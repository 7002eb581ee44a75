"""A hospital that lies about its images: the others get their models, and the liar is named."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message

from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic_strategies.merging import mailbox
from polyclinic_strategies.merging.messages import confirm
from tests.fakes import make_error, make_reply
from tests.strategies.attacks.in_rounds import ESCAPE
from tests.strategies.attacks.twins import handed
from tests.strategies.refinement.test_loop import Federation, Newcomer
from tests.strategies.refinement.test_refiner import BASE, NAME

LIAR = "mallory"
Lie = Callable[[Message], Message | None]


def described(**changes: Any) -> Lie:
    mean = torch.tensor([0.4]).numpy().tobytes()
    flat = {f"mean.{NAME}": mean, "subjects": 3, "seconds": 0.1}
    merged = {**flat, **{key.replace("mean", f"mean.{NAME}"): v for key, v in changes.items()}}
    kept = {key: value for key, value in merged.items() if value is not None}
    return lambda message: make_reply(message, {"config": ConfigRecord(kept)})


def numbers(*values: float) -> bytes:
    return torch.tensor(values).numpy().tobytes()


DESCRIPTIONS: dict[str, Lie] = {
    "nothing": lambda message: make_reply(message, {}),
    "no mean": described(mean=None),
    "a mean in words": described(mean="far"),
    "a mean as a number": described(mean=2**62),
    "an empty mean": described(mean=b""),
    "three bytes": described(mean=b"123"),
    "4 MiB and more": described(mean=bytes(4 * 2**20 + 4)),
    "NaN": described(mean=numbers(math.nan)),
    "infinity": described(mean=numbers(math.inf)),
    "3e38": described(mean=numbers(3e38)),
    "2": described(mean=numbers(2.0)),
    "no subjects": described(subjects=None),
    "zero subjects": described(subjects=0),
    "2**62 subjects": described(subjects=2**62),
    "half a subject": described(subjects=0.5),
    "NaN seconds": described(seconds=math.nan),
    "an error that steers": lambda message: make_error(message, ESCAPE + "x" * 100_000),
    "silence": lambda _message: None,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "LOOK_S", 0.0)


class Liar(Newcomer):
    """A newcomer that answers one kind of question with a lie."""

    kind = "query.describe"
    lie: Lie = staticmethod(confirm)

    def answer(self, message: Message) -> Message | None:
        if message.metadata.message_type == self.kind:
            return self.lie(message)
        return super().answer(message)


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_liar_gets_no_model_and_the_others_do(tmp_path: Path, name: str) -> None:
    liar = Liar(LIAR)
    liar.lie = DESCRIPTIONS[name]
    federation = Federation(tmp_path, liar, Newcomer("x", 0.1), Newcomer("y", 0.9))
    federation.loop.mailbox.patience_s = 0.3
    federation.serve(2)

    assert sorted(federation.of_kind("delivered")) == ["a", "b", "x", "y"]
    (failed,) = [event for event in federation.events if event["kind"] == "failed"]
    assert (failed["site"], failed["phase"]) == (LIAR, "describe")
    assert failed["reason"].isprintable() and 0 < len(failed["reason"]) < 600


@pytest.mark.parametrize("answers", [False, True])
def test_a_model_that_is_not_taken_keeps_nobody_waiting(tmp_path: Path, answers: bool) -> None:
    liar = Liar(LIAR)
    liar.kind = "query.refined"
    liar.lie = (lambda message: make_error(message, "no")) if answers else (lambda _message: None)
    federation = Federation(tmp_path, liar, Newcomer("x", 0.1))
    federation.loop.mailbox.patience_s = 0.3
    federation.serve(1)

    assert sorted(federation.of_kind("delivered")) == ["a", "b", "x"]
    assert federation.of_kind("failed") == [LIAR]


@pytest.mark.parametrize(
    "mean",
    [
        torch.tensor([3e38]),
        torch.tensor([math.nan]),
        torch.ones(2, 2),
        torch.ones(0),
        None,
    ],
)
def test_a_contribution_with_such_a_description_is_refused(
    tmp_path: Path, mean: torch.Tensor | None
) -> None:
    federation = Federation(tmp_path, Newcomer("x", 0.1))
    assignment = federation.loop.assignment
    about = Contribution(LIAR, assignment.base, "t", 3, {}, 1.0, "1")
    statistics = {} if mean is None else {f"site/{NAME}": mean}
    vector = {name: torch.ones_like(tensor) for name, tensor in BASE.items()}
    content = write_contribution(tmp_path, about, vector, statistics).read_bytes()
    verdict = federation.loop.receive(LIAR, handed(content))

    assert not verdict.accepted and NAME in verdict.reason
    assert federation.of_kind("contribution_refused") == [LIAR]
    federation.serve(1)
    assert LIAR not in federation.loop.refiner.contributors()


def test_a_description_that_was_accepted_once_makes_no_distance_vanish(tmp_path: Path) -> None:
    from polyclinic.store.requirements import Requirements

    federation = Federation(tmp_path, Newcomer("x", 0.1))
    before = federation.loop.refiner.neighbourhood(NAME).unit(["a", "b"])
    with Ledger.open(tmp_path / "ledger") as ledger:
        about = Contribution(LIAR, ledger.bases()[-1], "t", 3, {}, 1.0, "1")
        vector = {name: torch.ones_like(tensor) for name, tensor in BASE.items()}
        made = write_contribution(tmp_path, about, vector, {f"site/{NAME}": torch.tensor([3e38])})
        layout = {name: tuple(tensor.shape) for name, tensor in BASE.items()}
        ledger.receive(made, LIAR, Requirements(about.base, layout, "t", None, 2**20, 0.0, {}, 0))
    near = federation.loop.refiner.neighbourhood(NAME)
    assert near.sites == ["a", "b"]
    assert near.unit(["a", "b"]) == before
