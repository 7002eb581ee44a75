"""Attacks on what is asked in rounds: greetings, training, scores."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from polyclinic.federation.envelope import make_message, wrap
from polyclinic.federation.envelope.content import weights_from_message
from polyclinic.learning.measures.wire import FIELDS
from tests.fakes import make_error, make_reply
from tests.strategies.attacks.twins import CASES, HONEST, NUMBERS, Answer, Attack, Twin, place_of

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
FIGURES: Mapping[str, Any] = {"num-examples": CASES, "loss": 0.5, "seconds": 0.1}
SCORES: Mapping[str, Any] = {"num-examples": 2, "loss": 0.1, "score": 0.9, "seconds": 0.1}
HELLO: Mapping[str, Any] = {
    "site": "mallory",
    "version": "0",
    "modality": "T1",
    "refusal": "",
    "mode": "train",
    "task": "",
    "count.training": CASES,
}


def answer_with(records: Callable[[Twin], dict[str, Any]]) -> Answer:
    return lambda message, twin: make_reply(message, records(twin))


def figures(of: Mapping[str, Any] = FIGURES, **changes: Any) -> MetricRecord:
    changed = {key.replace("_", "-"): value for key, value in changes.items()}
    merged = {**of, **changed}
    return MetricRecord({key: value for key, value in merged.items() if value is not None})


def array(values: object, dtype: str = "float32") -> ArrayRecord:
    return ArrayRecord({"weights": Array(np.asarray(values, dtype=dtype))})


def honest(twin: Twin) -> ArrayRecord:
    return array((twin.place / 2).numpy())


def measured(**changes: Any) -> Answer:
    return answer_with(lambda twin: {"arrays": honest(twin), "metrics": figures(**changes)})


def sent(record: ArrayRecord | Callable[[Twin], ArrayRecord]) -> Answer:
    return answer_with(
        lambda twin: {
            "arrays": record(twin) if callable(record) else record,
            "metrics": figures(),
        }
    )


def raw(data: bytes, dtype: str = "float32", stype: str = "numpy.ndarray") -> ArrayRecord:
    return ArrayRecord({"weights": Array(dtype, (NUMBERS,), stype, data)})


def header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(60)


def packed(**values: Any) -> Answer:
    flat = {key.replace("mark_", "="): value for key, value in values.items()}
    return answer_with(lambda _: {"packed": ConfigRecord({**FIGURES, **flat})})


def updated(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Answer:
    """Send weights that `change` makes of those that arrived and the honest ones."""

    def answer(message: Message, twin: Twin) -> Message:
        asked = weights_from_message(message)
        weights = change(asked, (asked + twin.place) / 2)
        return make_reply(message, {"arrays": array(weights.numpy()), "metrics": figures()})

    return answer


def greeted(**changes: Any) -> Answer:
    flat = {key.replace("__", "."): value for key, value in changes.items()}
    merged = {key: value for key, value in {**HELLO, **flat}.items() if value is not None}
    return answer_with(lambda _: {"config": ConfigRecord(merged)})


def scored(**changes: Any) -> Answer:
    return answer_with(lambda _: {"metrics": figures(SCORES, **changes)})


def to_another_question(message: Message, twin: Twin) -> Message:
    other = make_message(RecordDict(), message.metadata.dst_node_id, "train", message_id="never")
    return wrap(RecordDict({"arrays": honest(twin), "metrics": figures()}), _reply_to(other))


def _reply_to(message: Message) -> Any:
    return Message(Error(1, ""), reply_to=message).metadata


def noise(asked: torch.Tensor, honest_weights: torch.Tensor) -> torch.Tensor:
    drawn = torch.randn(NUMBERS, generator=torch.Generator().manual_seed(7))
    return asked + drawn / drawn.norm() * (honest_weights - asked).norm()


DICE = [0.5, 0.4, 0.6, 2.0, 2.0, 2.0, 1.0, 2.0, 0.5, 1.0, 2.0]  # a sound measure


def dice(**changes: float) -> Answer:
    """Send a measure of which some numbers are others."""
    values = dict(zip(FIELDS, DICE, strict=True))
    return scored(**{"measure.dice.tumour": list({**values, **changes}.values())})


MANY = {f"score.label {number}": 0.5 for number in range(20_000)}
TRAINING = [
    Attack("nothing", "train", answer_with(lambda _: {})),
    Attack("no figures", "train", answer_with(lambda twin: {"arrays": honest(twin)})),
    Attack("no weights", "train", answer_with(lambda _: {"metrics": figures()})),
    Attack(
        "figures as text", "train", answer_with(lambda _: {"metrics": ConfigRecord({"a": "b"})})
    ),
    Attack("no examples named", "train", measured(num_examples=None)),
    Attack("negative examples", "train", measured(num_examples=-5)),
    Attack("zero examples", "train", measured(num_examples=0)),
    Attack("1e18 examples", "train", measured(num_examples=10**18)),
    Attack("half an example", "train", measured(num_examples=2.5)),
    Attack("a list of examples", "train", measured(num_examples=[4])),
    Attack("NaN examples", "train", measured(num_examples=math.nan)),
    Attack("a list as loss", "train", measured(loss=[0.5, 0.1])),
    Attack("an infinite loss", "train", measured(loss=math.inf)),
    Attack("a loss of 1e308", "train", measured(loss=1e308)),
    Attack("negative seconds", "train", measured(seconds=-1.0)),
    Attack("NaN", "train", sent(array([math.nan] * NUMBERS))),
    Attack("infinity", "train", sent(array([math.inf] * NUMBERS))),
    Attack("one number more", "train", sent(array(np.ones(NUMBERS + 1)))),
    Attack("no number", "train", sent(array([]))),
    Attack("a matrix", "train", sent(array(np.ones((NUMBERS, 1))))),
    Attack("float64", "train", sent(array(np.ones(NUMBERS), "float64"))),
    Attack("whole numbers", "train", sent(array(np.ones(NUMBERS), "int32"))),
    Attack("another name", "train", sent(ArrayRecord({"w": Array(np.ones(NUMBERS, np.float32))}))),
    Attack("no array", "train", sent(ArrayRecord())),
    Attack(
        "two arrays",
        "train",
        sent(lambda twin: ArrayRecord({**honest(twin), "b": Array(np.ones(2, np.float32))})),
    ),
    Attack("a header of 1e11 numbers", "train", sent(raw(header((10**11,))))),
    Attack("a header that lies", "train", sent(raw(header((15, 1))))),
    Attack("no numpy", "train", sent(raw(b"not an array"))),
    Attack("an unknown type", "train", sent(raw(header((NUMBERS,)), "float33"))),
    Attack("pickled objects", "train", sent(raw(header((NUMBERS,)).replace(b"<f4", b"|O1")))),
    Attack("packed: 5 bytes", "train", packed(mark_metrics=b"12345")),
    Attack("packed: text", "train", packed(mark_metrics="weights")),
    Attack("packed: twice", "train", packed(mark_metrics=b"", mark_config=b"")),
    Attack("packed: too short", "train", packed(mark_metrics=bytes(4))),
    Attack("1e12 times as long", "train", updated(lambda w, h: w + 1e12 * (h - w))),
    Attack("100 times as long", "train", updated(lambda w, h: w + 100 * (h - w))),
    Attack("the largest float", "train", updated(lambda w, _: torch.full_like(w, 3e38))),
    Attack("an error that steers", "train", lambda m, _: make_error(m, ESCAPE + "x" * 100_000)),
    Attack("silence", "train", lambda _m, _t: None),
    Attack("an answer to another question", "train", to_another_question),
    # nobody can know
    Attack("the sign turned", "train", updated(lambda w, h: 2 * w - h), named=False, unusual=True),
    Attack(
        "5 times as long", "train", updated(lambda w, h: w + 5 * (h - w)), named=False, unusual=True
    ),
    Attack("what arrived", "train", updated(lambda w, _: w), named=False, unusual=True),
    Attack(
        "another's vector",
        "train",
        updated(lambda w, _: (w + place_of("a")) / 2),
        named=False,
        unusual=True,
    ),
    Attack("the first round's", "train", sent(honest), named=False, unusual=True),
    Attack("noise", "train", updated(noise), named=False, unusual=True),
    Attack(
        "more figures", "train", measured(site=1.0, arm=2.0, round=10**6), named=False, unusual=True
    ),
    Attack("no loss", "train", measured(loss=math.nan), named=False, unusual=True),
    Attack("few examples", "train", measured(num_examples=1), named=False, unusual=True),
]
SCORING = [
    Attack("no score at all", "evaluate", answer_with(lambda _: {})),
    Attack("a score of 1e308", "evaluate", scored(score=1e308)),
    Attack("an infinite score", "evaluate", scored(score=-math.inf)),
    Attack("a list as score", "evaluate", scored(score=[1.0])),
    Attack("20,000 labels", "evaluate", scored(**MANY)),
    Attack("a label of 10,000 letters", "evaluate", scored(**{f"score.{'x' * 10_000}": 0.5})),
    Attack("a label's score of 2", "evaluate", scored(**{"score.tumour": 2.0})),
    Attack("examples of 2**62", "evaluate", scored(num_examples=2**62)),
    Attack("a Dice of 2", "evaluate", dice(value=2.0, total=4.0, high=2.0)),
    Attack("a Dice that is not its sums'", "evaluate", dice(value=0.6)),
    Attack("a Dice of 1e308", "evaluate", dice(total=1e308)),
    Attack("a Dice without cases", "evaluate", dice(weight=0.0, total=0.0)),
    Attack("a Dice of more cases than were scored", "evaluate", dice(n=3.0)),
    Attack("a Dice of half a case", "evaluate", dice(n=1.5)),
    Attack("an interval of one end", "evaluate", dice(low=math.nan)),
    Attack("a measure of two numbers", "evaluate", scored(**{"measure.dice.a": [0.5, 0.5]})),
    Attack("a measure as a number", "evaluate", scored(**{"measure.dice.a": 0.5})),
    Attack(
        "5,000 measures", "evaluate", scored(**{f"measure.dice.{n}": DICE for n in range(5000)})
    ),
    Attack("a difference of 3", "evaluate", scored(**{"compared.a": [3.0, *DICE[1:]]})),
    Attack("scores as text", "evaluate", answer_with(lambda _: {"config": ConfigRecord({"a": 1})})),
    Attack("a score of NaN", "evaluate", scored(score=math.nan), named=False),
    Attack("a perfect score", "evaluate", scored(score=1.0), named=False),
    Attack("no cases", "evaluate", scored(num_examples=0), named=False),
    Attack("a measure that nobody knows", "evaluate", scored(**{"measure.x.a": DICE}), named=False),
]
GREETING = [
    Attack("a greeting without a word", "query.hello", answer_with(lambda _: {})),
    Attack("a modality of 300 letters", "query.hello", greeted(modality="T" * 300)),
    Attack("a modality of 3", "query.hello", greeted(modality=3)),
    Attack("abc cases", "query.hello", greeted(count__training="abc")),
    Attack("2**62 cases", "query.hello", greeted(count__training=2**62)),
    Attack("-1 cases", "query.hello", greeted(count__training=-1)),
    Attack("an unknown split", "query.hello", greeted(count__everything=4)),
    Attack("no name", "query.hello", greeted(site=None)),
    Attack("a name that leads elsewhere", "query.hello", greeted(site="../a")),
    Attack("another's name", "query.hello", greeted(site=HONEST[0])),
    Attack("an unknown mode", "query.hello", greeted(mode="admin")),
    Attack("a refusal of 1e6 letters", "query.hello", greeted(refusal=ESCAPE + "x" * 10**6)),
    Attack("a modality that steers", "query.hello", greeted(modality=ESCAPE), named=False),
]
