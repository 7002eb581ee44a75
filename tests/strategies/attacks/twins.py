"""Hospitals that are functions: honest ones, and one that answers as an attack says.

A hospital's cases are a place in the space of weights. Its training goes halfway there, and its
score is the higher, the nearer a model is to it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from flwr.app import Message
from torch import Tensor

from polyclinic.federation.attendance import Attendance
from polyclinic.federation.envelope.content import unpack_content, weights_from_message
from polyclinic.federation.events import Event
from polyclinic.federation.records import (
    Hello,
    Order,
    evaluation_reply,
    hello_reply,
    training_reply,
)
from polyclinic.learning.measures.bootstrap import ratio
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.state_dict import StateDict, unpack
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic_strategies.merging.messages import (
    Assignment,
    Handover,
    confirm,
    hand_over,
    read_assignment,
)
from tests.fakes import FakeGrid, FakeNode

LIAR = "mallory"
HONEST = ("a", "b", "c", "d", "e")
CASES = 4
BASE: StateDict = {"conv.weight": torch.zeros(3, 4), "conv.bias": torch.zeros(3)}
NAMES = list(BASE)
NUMBERS = sum(tensor.numel() for tensor in BASE.values())
ORDER = Order("run", "arm", 0, 3, "none", "0", {"model": "unet"})
TASK = "segmentation: background, tumour"
AIM = torch.linspace(-1.0, 1.0, NUMBERS)


def place_of(site: str) -> Tensor:
    """Return where a hospital's cases are: near those of the others."""
    generator = torch.Generator().manual_seed(sum(map(ord, site)))
    return AIM + 0.02 * torch.randn(NUMBERS, generator=generator)


@dataclass
class Twin:
    """An honest hospital.

    Attributes:
        site: Its name.
        folder: For contributions.
        statistics: What it sends with its task vector.
        metrics: Its contribution's.
        vector: Its task vector; None as its cases are.
        cases: How many it says that it has.
    """

    site: str
    folder: Path
    statistics: StateDict = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    vector: StateDict | None = None
    cases: int = CASES
    has_base: bool = False
    settled: bool = False

    @property
    def place(self) -> Tensor:
        return place_of(self.site)

    def answer(self, message: Message) -> Message | None:
        kind = message.metadata.message_type
        if kind == "query.hello":
            return hello_reply(message, self.hello())
        if kind == "train":
            weights = weights_from_message(message)
            return training_reply(message, (weights + self.place) / 2, CASES, 0.5, 0.1)
        if kind.startswith("evaluate"):
            return evaluation_reply(message, self.score(weights_from_message(message)), 0.1)
        if kind == "query.base":
            self.has_base = True
        return self.collect(message) if kind == "query.collect" else confirm(message)

    def hello(self) -> Hello:
        counts = {"training": self.cases, "validation": 2, "test": 2}
        return Hello(self.site, "0", counts, "T1")

    def score(self, weights: Tensor) -> Evaluation:
        error = float((weights - self.place).square().mean().sqrt())
        score = max(0.0, 1.0 - error)
        dice = ratio([score] * 2, [1.0] * 2, [0, 1], n=2, positives=2, least=2)
        assert dice is not None
        return Evaluation(0.1, {"tumour": score}, score, 2, {"tumour": {"dice": dice}})

    def collect(self, message: Message) -> Message:
        assignment, verdicts = read_assignment(message)
        self.settled |= bool(verdicts)
        if not self.has_base:
            return hand_over(message, Handover(needs_base=True))
        if self.settled:
            return hand_over(message, Handover(doing="waiting"))
        content = self.contribute(assignment).read_bytes()
        return hand_over(message, handed(content))

    def contribute(self, assignment: Assignment, **changes: object) -> Path:
        known = {
            "site": self.site,
            "base": assignment.base,
            "task": assignment.task,
            "num_examples": CASES,
            "metrics": self.metrics,
            "created": 1000.0,
            "version": "1",
        }
        vector = unpack(self.place, BASE, NAMES) if self.vector is None else self.vector
        about = Contribution(**{**known, **changes})  # type: ignore[arg-type]
        return write_contribution(self.folder / self.site, about, vector, self.statistics)


def handed(content: bytes) -> Handover:
    return Handover(False, "", hashlib.sha256(content).hexdigest(), content)


Answer = Callable[[Message, Twin], Message | None]


@dataclass(frozen=True)
class Attack:
    """What a hospital answers instead of the truth.

    Attributes:
        name: In the tests.
        kind: Type of the question that it answers so; others it answers as an honest one does.
        answer: Makes the answer.
        named: Whether somebody can know that it is a lie; the others must bear it.
        unusual: Whether it is told that the hospital's update is unlike the others'.
    """

    name: str
    kind: str
    answer: Answer
    named: bool = True
    unusual: bool = False

    def __str__(self) -> str:
        return self.name


class Federation:
    """Honest hospitals, and a liar if there is an attack."""

    def __init__(self, folder: Path, attack: Attack | None = None) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.twins = {site: Twin(site, folder / "outboxes") for site in HONEST}
        nodes = [FakeNode(i, twin.answer) for i, twin in enumerate(self.twins.values(), 1)]
        if attack is not None:
            self.liar = Twin(LIAR, folder / "outboxes")
            nodes.append(FakeNode(len(nodes) + 1, self._lies(attack), name=LIAR))
        self.grid = FakeGrid(nodes)
        self.attendance = Attendance(self.grid, ORDER, self.note)  # type: ignore[arg-type]

    def note(self, event: Event) -> None:
        self.events.append(event)

    def _lies(self, attack: Attack) -> Callable[[Message], Message | None]:
        liar = self.liar

        def answer(message: Message) -> Message | None:
            if message.metadata.message_type.startswith(attack.kind):
                message.content = unpack_content(message.content)
                return attack.answer(message, liar)
            return liar.answer(message)

        return answer

    def told(self) -> list[str]:
        """Return what was told of the liar: failures, refusals, absences, limits."""
        kinds = ("failed", "refused", "missing", "contribution_refused", "set_aside", "note")
        lines = [event.to_line() for event in self.events if event.kind in kinds]
        reasons = [str(line.get("reason") or line.get("text")) for line in lines if _is_liars(line)]
        assert all(text.isprintable() and len(text) < 1500 for text in reasons)
        return reasons

    def blamed(self) -> set[str]:
        """Return the hospitals that something was told of."""
        kinds = ("failed", "refused", "missing", "contribution_refused", "set_aside")
        return {str(each.to_line()["site"]) for each in self.events if each.kind in kinds}


def _is_liars(line: dict[str, object]) -> bool:
    return line.get("site") == LIAR or str(line.get("text", "")).startswith(LIAR)
