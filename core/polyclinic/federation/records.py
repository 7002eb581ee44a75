"""The only codec between Flower's messages and our objects.

What travels to a hospital: names, bounded scalars and one vector of weights. What comes back: the vector and scalars.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from polyclinic.config.schemas import Setting
from polyclinic.errors import ConfigError
from polyclinic.learning.metrics import Evaluation

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"  # the keys that Flower's strategies use
PACKED = "packed"  # one record that stands for arrays and scalars together
INLINE_BYTES = (
    4 * 2**20
)  # Flower moves every record in calls of its own: a small model travels inside its scalars
WEIGHTS = "weights"
SCORE = "score."


@dataclass(frozen=True)
class Order:
    """What the coordinator asks of a hospital."""

    run: str
    arm: str
    seed: int
    rounds: int
    personal: str
    version: str
    names: Mapping[str, str]  # group of conf/ -> name
    settings: Mapping[str, Setting] = field(default_factory=dict)
    digests: Mapping[str, str] = field(
        default_factory=dict
    )  # of the resolved groups, and of the layout
    offset: int = 0  # rounds that an earlier attempt completed
    round: int = 0  # counted from 1 over all attempts
    proximal_mu: float = 0.0
    restoration: str = "none"  # of a merged model before it is scored: none, statistics, steps
    restoration_steps: int = 0


@dataclass(frozen=True)
class Hello:
    """What a hospital says of itself when it is greeted."""

    site: str
    version: str
    counts: Mapping[str, int]  # cases of each split
    modality: str = ""
    refusal: str = ""  # why it cannot take part; empty when it can
    mode: str = "train"  # or describe: it says what its images are like, and never trains or scores
    task: str = ""  # where tasks are the hospitals' own: kind, number of classes, channels and dimensions, and no names


def order_to_config(order: Order) -> ConfigRecord:
    """An order as flat scalars."""
    flat: dict[str, Any] = {
        "run": order.run,
        "arm": order.arm,
        "seed": order.seed,
        "rounds": order.rounds,
        "offset": order.offset,
    }
    flat |= {"personal": order.personal, "version": order.version}
    if order.restoration != "none":
        flat |= {"restoration": order.restoration, "restoration-steps": order.restoration_steps}
    flat |= {f"name.{group}": name for group, name in order.names.items()}
    flat |= {f"digest.{group}": value for group, value in order.digests.items()}
    flat |= {
        f"set.{key}": list(value) if isinstance(value, list) else value
        for key, value in order.settings.items()
    }
    return ConfigRecord(flat)


def order_from_message(message: Message) -> Order:
    """The order inside a message, with what a Flower strategy added to it.

    Raises:
        ConfigError: Something is missing or of another kind.
    """
    flat: dict[str, Any] = dict(unpack_content(message.content)[CONFIG])

    def under(prefix: str) -> dict[str, Any]:
        return {
            key.removeprefix(prefix): value for key, value in flat.items() if key.startswith(prefix)
        }

    try:
        return Order(
            run=_folder(flat["run"]), arm=_folder(flat["arm"]), seed=int(flat["seed"]), rounds=int(flat["rounds"]),
            personal=_word(flat["personal"]), version=_word(flat["version"]), names=under("name."), settings=under("set."),
            digests=under("digest."), offset=int(flat["offset"]), round=round_of(message), proximal_mu=float(flat.get("proximal-mu", 0.0)),
            restoration=_word(flat.get("restoration", "none")), restoration_steps=int(flat.get("restoration-steps", 0)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"The coordinator's message lacks {error}: it runs another version of polyclinic."
        ) from error


def weights_to_record(weights: Tensor) -> ArrayRecord:
    """One flat float32 vector as Flower's arrays; its bytes are not copied more than once."""
    return ArrayRecord({WEIGHTS: Array(np.ascontiguousarray(weights.numpy(), dtype=np.float32))})


def weights_from_record(record: ArrayRecord) -> Tensor:
    """The vector that Flower's arrays hold.

    Raises:
        ConfigError: Not one flat vector of floating-point numbers.
    """
    array = record[WEIGHTS].numpy() if WEIGHTS in record else None
    if array is None or array.ndim != 1 or array.dtype.kind != "f":
        raise ConfigError(
            "The message holds no flat vector of weights: the other side runs another version of polyclinic."
        )
    return torch.from_numpy(np.array(array, dtype=np.float32))


def weights_from_message(message: Message) -> Tensor:
    """The weights that a message carries."""
    record = unpack_content(message.content)[ARRAYS]
    assert isinstance(record, ArrayRecord)
    return weights_from_record(record)


def pack_content(content: RecordDict) -> RecordDict:
    """Arrays and scalars as one record, if the arrays are small: half as many calls on the wire.

    Flower moves a message's parts one by one, each array in two; for a model of a few MB the calls cost more than the bytes
    (benchmarks/README.md).
    """
    arrays = content.array_records.get(ARRAYS)
    if arrays is None or len(content) != 2:
        return content
    (other,) = [key for key in content if key != ARRAYS]
    scalars: dict[str, Any] = dict(content[other])
    data = arrays[WEIGHTS].numpy().astype("<f4", copy=False).tobytes()
    if len(data) > INLINE_BYTES:
        return content
    return RecordDict({PACKED: ConfigRecord({**scalars, f"={other}": data})})


def unpack_content(content: RecordDict) -> RecordDict:
    """The inverse of `pack_content`; anything else is returned as it is.

    Raises:
        ConfigError: Not what `pack_content` makes.
    """
    if PACKED not in content:
        return content
    flat: dict[str, Any] = dict(content[PACKED])
    marks = [key for key in flat if key in (f"={CONFIG}", f"={METRICS}")]
    data = flat.pop(marks[0]) if len(marks) == 1 else None
    if not isinstance(data, bytes) or len(data) % 4:
        raise ConfigError(
            "A packed message holds no weights: the other side runs another version of polyclinic."
        )
    weights = ArrayRecord({WEIGHTS: Array(np.frombuffer(data, dtype="<f4"))})
    scalars = ConfigRecord(flat) if marks[0] == f"={CONFIG}" else MetricRecord(flat)
    return RecordDict({ARRAYS: weights, marks[0][1:]: scalars})


def unpack_message(message: Message) -> Message:
    """The same message with its content unpacked; an error is left alone."""
    if message.has_content():
        message.content = unpack_content(message.content)
    return message


def training_reply(
    message: Message, weights: Tensor, num_examples: int, loss: float, seconds: float
) -> Message:
    """A hospital's answer to `train`."""
    metrics = MetricRecord({"num-examples": num_examples, "loss": loss, "seconds": seconds})
    return Message(
        pack_content(RecordDict({ARRAYS: weights_to_record(weights), METRICS: metrics})),
        reply_to=message,
    )


def evaluation_reply(message: Message, evaluation: Evaluation, seconds: float) -> Message:
    """A hospital's answer to `evaluate`."""
    flat: dict[str, Any] = {
        "num-examples": evaluation.num_examples,
        "score": evaluation.score,
        "seconds": seconds,
    }
    flat |= {"loss": float("nan") if evaluation.loss is None else evaluation.loss}
    flat |= {f"{SCORE}{label}": value for label, value in evaluation.scores.items()}
    return Message(RecordDict({METRICS: MetricRecord(flat)}), reply_to=message)


def metrics_from_reply(message: Message) -> dict[str, Any]:
    """A hospital's figures as a line of a run's metrics."""
    flat = dict(next(iter(message.content.metric_records.values())))
    scores = {
        key.removeprefix(SCORE): value for key, value in flat.items() if key.startswith(SCORE)
    }
    line = {
        key.replace("-", "_"): value for key, value in flat.items() if not key.startswith(SCORE)
    }
    return {**line, **({"scores": scores} if scores else {})}


def hello_reply(message: Message, hello: Hello) -> Message:
    """A hospital's answer to `query.hello`."""
    flat: dict[str, Any] = {
        "site": hello.site,
        "version": hello.version,
        "modality": hello.modality,
        "refusal": hello.refusal,
    }
    flat |= {"mode": hello.mode, "task": hello.task}
    flat |= {f"count.{split}": count for split, count in hello.counts.items()}
    return Message(RecordDict({CONFIG: ConfigRecord(flat)}), reply_to=message)


def hello_from_reply(message: Message) -> Hello:
    """What a hospital said of itself."""
    flat = dict(message.content[CONFIG])
    counts = {
        key.removeprefix("count."): int(str(value))
        for key, value in flat.items()
        if key.startswith("count.")
    }
    words = {
        key: _word(flat.get(key, "")) for key in ("site", "version", "modality", "mode", "task")
    }
    return Hello(
        words["site"],
        words["version"],
        counts,
        words["modality"],
        str(flat["refusal"]),
        words["mode"],
        words["task"],
    )


def greeting(order: Order, node: int, ttl_s: float) -> Message:
    """Asks a node who it is, and whether it can do what the run asks."""
    return Message(
        RecordDict({CONFIG: order_to_config(order)}),
        dst_node_id=node,
        message_type="query.hello",
        ttl=ttl_s,
    )


def readdress(message: Message, node: int) -> Message:
    """The same message for another node: a hospital that came back."""
    return Message(
        message.content,
        dst_node_id=node,
        message_type=message.metadata.message_type,
        ttl=message.metadata.ttl,
        group_id=message.metadata.group_id,
    )


def round_of(message: Message) -> int:
    """The round that a message belongs to, counted over all attempts; 0 outside rounds."""
    config = unpack_content(message.content)[CONFIG]
    number = int(str(config.get("server-round", 0)))
    return number + int(str(config.get("offset", 0))) if number else 0


def test_order(order: Order, weights: Tensor, node: int) -> Message:
    """Asks a hospital for its final figures, on its test cases and their own grid."""
    config = order_to_config(order)
    config["server-round"] = order.rounds - order.offset
    return Message(
        RecordDict({ARRAYS: weights_to_record(weights), CONFIG: config}),
        dst_node_id=node,
        message_type="evaluate.test",
    )


def _folder(value: object) -> str:
    """A name that may become a folder's, and leads nowhere else."""
    if not re.fullmatch(r"[\w][\w.-]{0,99}", _word(value)):
        raise ValueError(f"a plain name instead of {value!r}")
    return str(value)


def _word(value: object) -> str:
    """A short piece of text."""
    if not isinstance(value, str) or len(value) > 200:
        raise TypeError("a short text")
    return value
