"""Messages between coordinator and hospital, as envelopes of the wire."""

import io
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from polyclinic.errors import (
    AnswerRefused,
    ConfigError,
    FrameInvalid,
    WeightsInvalid,
)
from polyclinic.federation.answers import read_figures, read_hello, read_trained
from polyclinic.federation.assignment import Assignment
from polyclinic.federation.envelope import BufferArray, decode
from polyclinic.federation.envelope.content import CONFIG, unpack_message, weights_from_message
from polyclinic.federation.records import Order, PatientTerms, order_from_message, order_to_config
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.learning.measures.estimates import check_bounds, pool_all
from polyclinic.learning.measures.names import MEASURES
from polyclinic.learning.state_dict import unpack
from polyclinic_strategies.merging.messages import (
    ask_for_contribution,
    read_assignment,
    read_base,
    read_handover,
)
from polyclinic_strategies.refinement.messages import (
    read_description,
    read_question,
    read_refined,
)
from tests.fuzz.mutation import changed, damaged, fault
from tests.fuzz.reader import Reader

BLOB = "b" * 64
NAMES = {"model": "unet_2d", "data": "brain_tissue_slices", "training": "default"}
ORDER = Order(
    *("run", "arm", 0, 3, "none", "1"),
    NAMES,
    {"training.epochs": 2},
    {"model": "d" * 64},
    patients=PatientTerms(8.0, 1e-5, 1.0),
)
ASSIGNMENT = Assignment(ORDER, "b" * 64, "t", "e" * 64, ("correlation",))
LISTS = {
    bool: ("truths", wire.Truths),
    int: ("integers", wire.Integers),
    float: ("reals", wire.Reals),
    str: ("texts", wire.Texts),
    bytes: ("datas", wire.Datas),
}
SINGLE = {bool: "truth", int: "integer", float: "real", str: "text", bytes: "data"}
WIRE_ERRORS = (DecodeError, FrameInvalid)
ANSWER_ERRORS = (*WIRE_ERRORS, AnswerRefused, ConfigError, ValidationError)
QUESTION_ERRORS = (*WIRE_ERRORS, ConfigError, WeightsInvalid)
Records = dict[str, dict[str, Any]]


class Folder:
    """The blobs that lie beside an envelope: one, as numpy wrote it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / BLOB).exists():
            (folder / BLOB).write_bytes(array_bytes(np.zeros(5, np.float32)))

    def path(self, digest: str, /) -> Path:
        return self._folder / digest

    def put(self, buffers: object, /) -> Any:
        raise NotImplementedError


def array_bytes(array: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def named_value(name: str, value: Any) -> wire.NamedValue:
    """Write any plain value as the wire can; what it cannot hold becomes text."""
    name = name.encode("utf-8", "replace").decode()
    try:
        if isinstance(value, list) and value:
            field, kind = LISTS[type(value[0])]
            return wire.NamedValue(name=name, **{field: kind(items=value)})
        return wire.NamedValue(name=name, **{SINGLE[type(value)]: value})
    except (KeyError, ValueError, TypeError):
        text = str(value).encode("utf-8", "replace").decode()
        return wire.NamedValue(name=name, text=text[:10_000])


def envelope(records: Records, *, answer: bool, random: Random | None = None) -> wire.Envelope:
    """Write records; an array is a pair of numpy's bytes and what is said of them."""
    content = wire.Content()
    for name, entries in records.items():
        made = content.records.add(name=name)
        if name == "arrays":
            made.arrays.SetInParent()
            for key, array in entries.items():
                made.arrays.entries.append(_array_entry(key, array, random))
            continue
        kind = "metrics" if name == "metrics" else "config"
        if random is not None and random.random() < 0.03:
            kind = random.choice(("metrics", "config"))
        values = getattr(made, kind)
        values.SetInParent()
        values.entries.extend(named_value(key, value) for key, value in entries.items())
    return wire.Envelope(
        message_id="m",
        reply_to="q" if answer else "",
        type="query.collect",
        created=1.7e9,
        ttl_s=600.0,
        node=7,
        run=1,
        content=content,
    )


def _array_entry(name: str, array: Any, random: Random | None) -> wire.ArrayEntry:
    dtype, shape, inline = str(array.dtype), array.shape, array_bytes(array)
    entry = wire.ArrayEntry(name=name, dtype=dtype, shape=shape, stype="numpy.ndarray")
    if random is not None and random.random() < 0.2:
        entry.blob.digest = random.choice((BLOB, "c" * 64, "../x", ""))
        entry.blob.size = random.choice((len(inline), 0, 2**40))
        return entry
    if random is None or random.random() < 0.5:
        entry.inline = inline
        return entry
    entry.inline = damaged(inline, random, 0, random.choice((10, 128, len(inline))))
    if random.random() < 0.3:
        del entry.shape[:]
        entry.shape.extend(
            random.choice((0, 1, 5, 2**31, 2**63)) for _ in range(random.randrange(40))
        )
    if random.random() < 0.3:
        entry.dtype = random.choice(("float64", "object", "|V4", "f4", "a" * 100))
    return entry


def drawn(records: Records, *, answer: bool) -> Any:
    """Return what draws an envelope with faults: in its values, its records, or its bytes."""

    def draw(random: Random) -> bytes:
        found = dict(records)
        for name in records:
            if name == "arrays":
                found[name] = _other_arrays(random) if random.random() < 0.2 else records[name]
                continue
            entries = {str(key): value for key, value in _entries(records[name], random).items()}
            found[name] = entries
        if random.random() < 0.05:
            found.pop(random.choice(list(found)))
        if random.random() < 0.05:
            found[str(fault(random))[:2000].encode("utf-8", "replace").decode()] = {"a": 1}
        if random.random() < 0.05:
            found["packed"] = {**records.get(CONFIG, {}), "=config": random.randbytes(8)}
        made = envelope(found, answer=answer, random=random)
        if random.random() < 0.1:
            made.ttl_s = random.choice((-1.0, 0.0, 1e300, float("nan"), float("inf")))
        if random.random() < 0.02:
            made.fault.reason = "\x1b[2J" * 50
        content = made.SerializeToString()
        return damaged(content, random) if random.random() < 0.15 else content

    return draw


def _entries(entries: dict[str, Any], random: Random) -> dict[str, Any]:
    found = changed(entries, random)
    return found if isinstance(found, dict) else {}


def _other_arrays(random: Random) -> dict[str, Any]:
    count = random.choice((0, 1, 4, 5, 6, 1000))
    kind = random.choice(("float32", "float64", "uint8", "int64", "complex64", ">f4"))
    values = np.zeros(count, kind)
    if count and kind != "uint8" and random.random() < 0.5:
        values[0] = random.choice((1, -1) if kind == "int64" else (np.nan, np.inf, -1e30))
    array = values.reshape(1, -1) if random.random() < 0.2 else values
    return {random.choice(("weights", "file", "x", "")): array}


def message_of(content: bytes, folder: Path) -> Message:
    return unpack_message(decode(wire.Envelope.FromString(content), Folder(folder)))


def check_order(order: Order) -> Order:
    """See that an order leads nowhere but where it should."""
    assert "/" not in order.run + order.arm and ".." not in (order.run, order.arm)
    assert 1 <= order.rounds <= 10**6 and 0 <= order.seed < 2**31
    assert 0 <= order.proximal_mu <= 1e9
    assert not any("_target_" in key or "[" in key for key in order.settings)
    return order


def answer_reader(name: str, records: Records, read: Any) -> Reader:
    return Reader(
        name,
        envelope(records, answer=True).SerializeToString(),
        drawn(records, answer=True),
        lambda content, folder: _not_a_fault(read, message_of(content, folder)),
        ANSWER_ERRORS,
    )


def _not_a_fault(read: Any, message: Message) -> object:
    return None if message.has_error() else read(message)


def _question(name: str, records: Records, read: Any) -> Reader:
    return Reader(
        name,
        envelope(records, answer=False).SerializeToString(),
        drawn(records, answer=False),
        lambda content, folder: read(message_of(content, folder)),
        QUESTION_ERRORS,
    )


def _read_figures(message: Message) -> None:
    found = read_figures(message)
    for table in (*found.measures.values(), {"score_difference": found.comparisons.get("other")}):
        for name, estimate in table.items():
            if estimate is not None:
                check_bounds(MEASURES[name], estimate)
                assert estimate.n <= found.num_examples and estimate.weight > 0
    if pooled := pool_all([found.measures, found.measures]):
        assert all(math.isfinite(each.value) for each in pooled[next(iter(pooled))].values())


def _read_weights(message: Message) -> None:
    unpack(weights_from_message(message), {"a": torch.zeros(5)}, ["a"])


def _read_base(message: Message) -> None:
    order, base = read_base(message)
    assert check_order(order) and len(base) == 64
    _read_weights(message)


def _read_assignment(message: Message) -> None:
    assignment, verdicts = read_assignment(message)
    check_order(assignment.order)
    assert Assignment.from_json(assignment.to_json()) == assignment
    assert all(len(verdict.reason) <= 1000 for verdict in verdicts)


def _read_refined(message: Message) -> None:
    order, number = read_refined(message)
    assert check_order(order) and 0 <= number < 2**31
    _read_weights(message)


WEIGHTS = {"weights": np.arange(5, dtype=np.float32)}
HELLO = {
    **{"site": "north", "version": "0.2.0", "modality": "T1", "refusal": "", "mode": "train"},
    **{"task": "", "count.training": 4, "count.validation": 1, "count.test": 2},
}
ESTIMATE = [0.5, 0.4, 0.6, 4.0, 4.0, 4.0, 2.0, 4.0, 1.5, 2.0, 4.0]
FIGURES = {
    **{"num-examples": 4, "loss": 0.3, "score": 0.8, "seconds": 1.5, "score.tumour": 0.7},
    "score.oedema": float("nan"),
    "measure.dice.tumour": ESTIMATE,
    "measure.hausdorff95_mm.tumour": [3.0, 2.0, 4.0, 4.0, 4.0, 4.0, 12.0, 4.0, 40.0, 12.0, 4.0],
    "compared.other": ESTIMATE,
}
TRAINED = {"num-examples": 4, "loss": 0.3, "seconds": 1.5}
HANDOVER = {"needs-base": False, "doing": "training 3 %", "digest": "a" * 64, "file": b"content"}
MEAN = np.full(4, 0.25, "<f4").tobytes()
DESCRIPTION = {
    "mean.histogram": MEAN,
    "mean.correlation": MEAN,
    "mean.histogram.variance": MEAN[:4],
    "subjects": 5,
    "seconds": 2.0,
}
ORDERED = {
    **dict(order_to_config(ORDER)),
    **{"server-round": 1, "proximal-mu": 0.1, "restoration": "steps", "restoration-steps": 3},
    "plugin.toy": "1.0",
}
ASKED = {**dict(ask_for_contribution(ASSIGNMENT, [], 7).content[CONFIG]), **ORDERED}
ASSIGNED = {
    **ASKED,
    **{"verdict.digests": ["a" * 64], "verdict.accepted": [True], "verdict.reasons": [""]},
}

READERS = (
    answer_reader("hello", {"config": HELLO}, read_hello),
    answer_reader("figures", {"metrics": FIGURES}, _read_figures),
    answer_reader(
        "trained",
        {"arrays": WEIGHTS, "metrics": TRAINED},
        lambda message: read_trained(message, BufferArray(np.zeros(5, np.float32))),
    ),
    answer_reader("handover", {"config": HANDOVER}, read_handover),
    answer_reader(
        "handover-array",
        {"config": HANDOVER, "arrays": {"file": np.zeros(9, np.uint8)}},
        read_handover,
    ),
    answer_reader(
        "description",
        {"config": DESCRIPTION},
        lambda message: read_description(message, ("histogram", "correlation")),
    ),
    _question(
        "order", {"config": ORDERED}, lambda message: check_order(order_from_message(message))
    ),
    _question("assignment", {"config": ASSIGNED}, _read_assignment),
    _question("base", {"arrays": WEIGHTS, "config": ASKED}, _read_base),
    _question(
        "question",
        {"config": ASKED},
        lambda message: check_order(read_question(message)[0]),
    ),
    _question("refined", {"arrays": WEIGHTS, "config": {**ORDERED, "number": 3}}, _read_refined),
)
