"""Attacks on what is handed in: answers to the question for a contribution, and contributions."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from safetensors.torch import load_file, save_file

from polyclinic.learning.state_dict import StateDict, unpack
from polyclinic_strategies.merging.messages import Handover, hand_over, read_assignment
from tests.fakes import make_error
from tests.strategies.attacks.in_rounds import ESCAPE, answer_with, header
from tests.strategies.attacks.twins import BASE, NAMES, NUMBERS, Answer, Attack, Twin, handed

COLLECT = "query.collect"
HANDOVER: Mapping[str, Any] = {"needs-base": False, "doing": "", "digest": "0" * 64, "file": b"x"}


def told(**changes: Any) -> Answer:
    flat = {**HANDOVER, **{key.replace("_", "-"): value for key, value in changes.items()}}
    kept = {key: value for key, value in flat.items() if value is not None}
    return answer_with(lambda _: {"config": ConfigRecord(kept)})


def beside(record: ArrayRecord) -> Answer:
    """Send a contribution beside the scalars."""
    flat = {key: value for key, value in HANDOVER.items() if key != "file"}
    return answer_with(lambda _: {"config": ConfigRecord(flat), "arrays": record})


def handing_in(content: Callable[[Message, Twin], bytes]) -> Answer:
    """Ask for the base as an honest hospital does, then hand something in once."""

    def answer(message: Message, twin: Twin) -> Message:
        honest = twin.collect(message)
        if not twin.has_base or twin.settled:
            return honest
        return hand_over(message, handed(content(message, twin)))

    return answer


def contributed(
    vector: Callable[[StateDict], StateDict] | None = None,
    statistics: StateDict | None = None,
    metrics: dict[str, float] | None = None,
    **changes: Any,
) -> Answer:
    """Hand in another contribution than the honest one."""

    def content(message: Message, twin: Twin) -> bytes:
        sent = unpack(twin.place, BASE, NAMES)
        lying = replace(twin, vector=sent if vector is None else vector(sent))
        if statistics is not None:
            lying.statistics = statistics
        if metrics is not None:
            lying.metrics = metrics
        assignment, _ = read_assignment(message)
        return lying.contribute(assignment, **changes).read_bytes()

    return handing_in(content)


def rewritten(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Answer:
    """Hand in a contribution whose provenance is something that nobody could write by mistake."""

    def content(message: Message, twin: Twin) -> bytes:
        path = twin.contribute(read_assignment(message)[0])
        known = {
            "site": twin.site,
            "base": read_assignment(message)[0].base,
            "task": read_assignment(message)[0].task,
            "num_examples": 4,
            "metrics": {},
            "created": 1.0,
            "version": "1",
        }
        made = twin.folder / "forged.safetensors"
        save_file(load_file(path), made, {"polyclinic": json.dumps(change(known))})
        return made.read_bytes()

    return handing_in(content)


def times(factor: float) -> Callable[[StateDict], StateDict]:
    return lambda vector: {name: factor * tensor for name, tensor in vector.items()}


def filled(value: float) -> Callable[[StateDict], StateDict]:
    return lambda vector: {name: torch.full_like(each, value) for name, each in vector.items()}


def others(vector: StateDict) -> StateDict:
    return unpack(Twin("a", None).place, BASE, NAMES)  # type: ignore[arg-type]


def noisy(vector: StateDict) -> StateDict:
    drawn = torch.randn(NUMBERS, generator=torch.Generator().manual_seed(7))
    return unpack(drawn * 0.6, BASE, NAMES)


def asks_for_the_base_for_ever(message: Message, _twin: Twin) -> Message:
    return hand_over(message, Handover(needs_base=True))


def another_each_time(message: Message, twin: Twin) -> Message:
    twin.cases += 1
    return hand_over(message, handed(b"garbage %d" % twin.cases))


def nested(_message: Message, _twin: Twin) -> bytes:
    text = json.dumps({"__metadata__": {"polyclinic": "[" * 100_000}}).encode()
    return len(text).to_bytes(8, "little") + text


ANSWERS = [
    Attack("an empty answer", COLLECT, answer_with(lambda _: {})),
    Attack("no digest", COLLECT, told(digest=None)),
    Attack("a digest that is none", COLLECT, told(digest="../../x")),
    Attack("a digest that is a number", COLLECT, told(digest=7)),
    Attack("the integer 2**62 as a file", COLLECT, told(file=2**62)),
    Attack("text as a file", COLLECT, told(file="text")),
    Attack("a list as words", COLLECT, told(doing=["a", "b"])),
    Attack("yes, it needs the base", COLLECT, told(needs_base="yes")),
    Attack("a file of another digest", COLLECT, told()),
    Attack("a file of floats", COLLECT, beside(ArrayRecord({"file": Array(np.ones(3))}))),
    Attack(
        "a file of 1e11 bytes",
        COLLECT,
        beside(
            ArrayRecord({"file": Array("uint8", (10**11,), "numpy.ndarray", header((10**11,)))})
        ),
    ),
    Attack("a file under another name", COLLECT, beside(ArrayRecord({"f": Array(np.ones(3))}))),
    Attack("an error that steers", COLLECT, lambda m, _: make_error(m, ESCAPE + "x" * 100_000)),
    Attack("silence", COLLECT, lambda _m, _t: None),
    Attack("the base for ever", COLLECT, asks_for_the_base_for_ever),
    Attack("another piece of garbage each time", COLLECT, another_each_time),
    Attack("no base taken", "query.base", lambda m, _: make_error(m, "no")),
    Attack("silence over the base", "query.base", lambda _m, _t: None),
]
FILES = [
    Attack("no file at all", COLLECT, handing_in(lambda _m, _t: b"nothing")),
    Attack("provenance nested deeply", COLLECT, handing_in(nested)),
    Attack("half a file", COLLECT, handing_in(lambda m, t: contribution_of(m, t)[:-40])),
    Attack("a tensor less", COLLECT, contributed(lambda v: {"conv.bias": v["conv.bias"]})),
    Attack("a tensor more", COLLECT, contributed(lambda v: {**v, "evil": torch.ones(2)})),
    Attack("another shape", COLLECT, contributed(lambda v: {**v, "conv.bias": torch.ones(4)})),
    Attack("float64", COLLECT, contributed(lambda v: {**v, "conv.bias": v["conv.bias"].double()})),
    Attack("NaN", COLLECT, contributed(filled(math.nan))),
    Attack("infinity", COLLECT, contributed(filled(math.inf))),
    Attack("values of 1e12", COLLECT, contributed(filled(1e12))),
    Attack("the largest float", COLLECT, contributed(filled(3e38))),
    Attack("100 times as long", COLLECT, contributed(times(100.0))),
    Attack("2**53 examples", COLLECT, contributed(num_examples=2**53)),
    Attack("another's name", COLLECT, contributed(site="a")),
    Attack("another base", COLLECT, contributed(base="0" * 64)),
    Attack("another task", COLLECT, contributed(task="regression")),
    Attack(
        "statistics unasked", COLLECT, contributed(statistics={"gram/conv.weight": torch.eye(4)})
    ),
    Attack("-4 examples", COLLECT, rewritten(lambda v: {**v, "num_examples": -4})),
    Attack("examples in words", COLLECT, rewritten(lambda v: {**v, "num_examples": "four"})),
    Attack("metrics of NaN", COLLECT, rewritten(lambda v: {**v, "metrics": {"loss": math.nan}})),
    Attack("metrics that are a list", COLLECT, rewritten(lambda v: {**v, "metrics": [1.0]})),
    Attack("a task that steers", COLLECT, rewritten(lambda v: {**v, "task": ESCAPE})),
    Attack("a field more", COLLECT, rewritten(lambda v: {**v, "evil": 1})),
    # nobody can know
    Attack("the sign turned", COLLECT, contributed(times(-1.0)), named=False, unusual=True),
    Attack("5 times as long", COLLECT, contributed(times(5.0)), named=False, unusual=True),
    Attack("nothing learned", COLLECT, contributed(times(0.0)), named=False, unusual=True),
    Attack("another's vector", COLLECT, contributed(others), named=False, unusual=True),
    Attack("noise", COLLECT, contributed(noisy), named=False, unusual=True),
    Attack("1e7 examples", COLLECT, contributed(num_examples=10**7), named=False),
    Attack("from the year 1e9", COLLECT, contributed(created=1e18), named=False),
]


def contribution_of(message: Message, twin: Twin) -> bytes:
    return twin.contribute(read_assignment(message)[0]).read_bytes()


GRAM, FISHER = "gram/conv.weight", "fisher/conv.weight"
OF_LAYERS: Mapping[str, StateDict] = {
    "missing": {},
    "a gram of shape (1, 1)": {GRAM: torch.ones(1, 1)},
    "a gram that is no matrix": {GRAM: torch.ones(4)},
    "a gram below zero": {GRAM: -torch.eye(4)},
    "a gram that is not symmetric": {GRAM: torch.triu(torch.ones(4, 4))},
    "a gram of no moments": {GRAM: torch.eye(4) + 5 * (1 - torch.eye(4))},
    "a gram of 1e30": {GRAM: 1e30 * torch.eye(4)},
    "a gram of NaN": {GRAM: math.nan * torch.eye(4)},
    "a gram of no weight": {GRAM: torch.eye(4), "gram/evil": torch.eye(4)},
    "a gram of a bias": {GRAM: torch.eye(4), "gram/conv.bias": torch.eye(1)},
    "fisher of shape (5,)": {FISHER: torch.ones(5), "fisher/conv.bias": torch.ones(3)},
    "fisher below zero": {FISHER: -torch.ones(3, 4), "fisher/conv.bias": torch.ones(3)},
    "fisher of 3e38": {FISHER: 3e38 * torch.ones(3, 4), "fisher/conv.bias": torch.ones(3)},
}
