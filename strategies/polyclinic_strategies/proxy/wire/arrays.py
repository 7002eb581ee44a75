"""Arrays that are sent in parts, by both sides."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire

PART_BYTES = 2**20  # largest data of one message
MESSAGE_BYTES = PART_BYTES + 4096  # largest message
REQUEST_ID_BYTES = 16
TOP = 255.0  # the number for an intensity of a proxy, or a probability of an answer, of 1
# trailing metadata of a temporary refusal: seconds until the client may ask again
RETRY_HEADER = "polyclinic-retry-s"
DTYPES: dict[int, np.dtype[Any]] = {wire.UINT8: np.dtype(np.uint8), wire.FLOAT16: np.dtype("<f2")}


class PartsInvalid(ValueError):
    """The parts are not what their header announced; the message says how."""


def volume_parts(
    volume: NDArray[np.uint8] | NDArray[np.float16], kind: int, request_id: bytes
) -> Iterator[wire.VolumePart]:
    """Yield a volume as a client sends it.

    Args:
        volume: uint8 or float16, shape (H, W, D).
        kind: An `AnswerKind`.
        request_id: 16 random bytes, drawn for this request alone.
    """
    dtype = wire.UINT8 if volume.dtype == np.uint8 else wire.FLOAT16
    header = wire.VolumeHeader(shape=volume.shape, dtype=dtype, answer=kind, request_id=request_id)  # type: ignore[arg-type]
    yield wire.VolumePart(header=header)
    for data in cut(volume.astype(DTYPES[dtype], copy=False)):
        yield wire.VolumePart(data=data)


def answer_parts(
    answer: NDArray[np.uint8], kind: int, request_id: bytes
) -> Iterator[wire.AnswerPart]:
    """Yield an answer as the service sends it."""
    header = wire.AnswerHeader(shape=answer.shape, answer=kind, request_id=request_id)  # type: ignore[arg-type]
    yield wire.AnswerPart(header=header)
    for data in cut(answer):
        yield wire.AnswerPart(data=data)


def answer_shape(kind: int, shape: Sequence[int], classes: int) -> tuple[int, ...]:
    """Return the shape of an answer for a volume of shape H, W, D."""
    return tuple(shape) if kind == wire.LABELS else (classes - 1, *shape)


def cut(array: NDArray[Any]) -> Iterator[bytes]:
    """Yield an array's bytes in C order, in parts of at most `PART_BYTES`."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, PART_BYTES):
        yield flat[start : start + PART_BYTES].tobytes()


class Assembly:
    """An array that arrives in parts, and never gets larger than announced.

    Args:
        shape, dtype: From the header; they have been checked before.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self._shape, self._dtype = tuple(shape), dtype
        self._buffer = np.empty(math.prod(self._shape) * dtype.itemsize, np.uint8)
        self.filled = 0

    @property
    def size(self) -> int:
        """Number of bytes that were announced."""
        return self._buffer.size

    def add(self, part: wire.VolumePart | wire.AnswerPart) -> None:
        """Add the next message.

        Raises:
            PartsInvalid: It carries no data, or more than is missing.
        """
        if part.WhichOneof("part") != "data" or not part.data:
            raise PartsInvalid("a message after the first carries no data")
        if len(part.data) > PART_BYTES:
            raise PartsInvalid(
                f"a part has {len(part.data):,} bytes, at most {PART_BYTES:,} are allowed"
            )
        end = self.filled + len(part.data)
        if end > self.size:
            raise PartsInvalid(f"more bytes than the {self.size:,} that the header announced")
        self._buffer[self.filled : end] = np.frombuffer(part.data, np.uint8)
        self.filled = end

    def finish(self) -> NDArray[Any]:
        """Return the array.

        Raises:
            PartsInvalid: A part of it is missing.
        """
        if self.filled < self.size:
            raise PartsInvalid(f"the stream ended after {self.filled:,} of {self.size:,} bytes")
        return self._buffer.view(self._dtype).reshape(self._shape)
