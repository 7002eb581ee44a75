"""The content of a message: one vector of weights, and scalars."""

import math
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from polyclinic.errors import ConfigError
from polyclinic.federation.envelope.mapped_array import BufferArray, array_values

# the keys that Flower's strategies use
ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
PACKED = "packed"  # one record that stands for arrays and scalars together
# Flower moves every record in calls of its own: a small model travels inside its scalars
INLINE_BYTES = 4 * 2**20
WEIGHTS = "weights"


def weights_to_record(weights: Tensor) -> ArrayRecord:
    """Turn a flat float32 vector, which must not change any more, into Flower's arrays."""
    record = ArrayRecord()  # given a dictionary, it would copy each array
    record[WEIGHTS] = BufferArray(np.asarray(weights.numpy(), dtype=np.float32))
    return record


def weights_from_record(record: ArrayRecord) -> Tensor:
    """Return the vector that Flower's arrays hold.

    Raises:
        ConfigError: Not one flat vector of floating-point numbers.
    """
    try:
        array = record[WEIGHTS].numpy() if WEIGHTS in record else None
    except (TypeError, ValueError):  # its bytes are not those of an array
        array = None
    if array is None or array.ndim != 1 or array.dtype.kind != "f":
        raise ConfigError(
            "The message holds no flat vector of weights: the other side runs another version of "
            "polyclinic."
        )
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))  # it is ours alone


def weights_from_message(message: Message) -> Tensor:
    """Return the weights that a message carries."""
    record = unpack_content(message.content).get(ARRAYS)
    return weights_from_record(record if isinstance(record, ArrayRecord) else ArrayRecord())


def weights_of(question: Message) -> Array | None:
    """Return the vector that a question carries, not copied; None if it carries none."""
    record = unpack_content(question.content).array_records.get(ARRAYS)
    return None if record is None else record.get(WEIGHTS)


def pack_content(content: RecordDict) -> RecordDict:
    """Pack arrays and scalars into one record, if the arrays are small: half as many calls.

    Flower moves a message's parts one by one, each array in two; for a model of a few MB the calls
    cost more than the bytes (benchmarks/README.md).
    """
    arrays = content.array_records.get(ARRAYS)
    if arrays is None or len(content) != 2:
        return content
    (other,) = [key for key in content if key != ARRAYS]
    scalars: dict[str, Any] = dict(content[other])
    if math.prod(arrays[WEIGHTS].shape) * 4 > INLINE_BYTES:
        return content
    data = array_values(arrays[WEIGHTS]).astype("<f4", copy=False).tobytes()
    return RecordDict({PACKED: ConfigRecord({**scalars, f"={other}": data})})


def unpack_content(content: RecordDict) -> RecordDict:
    """Undo `pack_content`; return anything else as it is.

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
    try:
        scalars = ConfigRecord(flat) if marks[0] == f"={CONFIG}" else MetricRecord(flat)
    except TypeError as error:
        raise ConfigError(
            "A packed message holds figures that are none: the other side runs another version of "
            "polyclinic."
        ) from error
    return RecordDict({ARRAYS: weights, marks[0][1:]: scalars})


def unpack_message(message: Message) -> Message:
    """Unpack the content of a message; leave an error alone."""
    if message.has_content():
        message.content = unpack_content(message.content)
    return message
