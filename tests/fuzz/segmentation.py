"""Volumes and answers of the segmentation service, on either side."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from polyclinic_client.segmentation.client import SegmentationLink
from polyclinic_client.segmentation.errors import ServiceMismatch
from polyclinic_server.segmentation.queue import Refusal
from polyclinic_server.segmentation.service import _check_values, _checked
from polyclinic_strategies.proxy.wire import segmentation_pb2 as proxy
from polyclinic_strategies.proxy.wire.arrays import (
    DTYPES,
    Assembly,
    PartsInvalid,
    answer_parts,
    volume_parts,
)
from tests.fuzz.frames import framed, parts_of, spoiled
from tests.fuzz.reader import Reader
from tests.server.segmentation.mutations import mutate

SHAPE, LABELS, REQUEST = (4, 3, 2), ("background", "grey", "white"), bytes(16)
VOLUME = np.arange(24, dtype=np.uint8).reshape(SHAPE)
HALF = VOLUME.astype(np.float16)
ANSWER = np.zeros(SHAPE, np.uint8)
DESCRIBED = proxy.Description(
    shape=SHAPE, labels=LABELS, digest="d" * 64, limits=proxy.Limits(deadline_s=600.0)
)


def _serialized(parts: Iterable[Any]) -> list[bytes]:
    return [part.SerializeToString() for part in parts]


def _draw_parts(sound: list[list[bytes]]) -> Any:
    return lambda random: framed(mutate(random.choice(sound), random))


def read_volume(content: bytes, folder: Path) -> None:
    parts = [proxy.VolumePart.FromString(part) for part in parts_of(content)]
    header = _checked(parts[0] if parts else None, SHAPE)
    assembly = Assembly(header.shape, DTYPES[header.dtype])
    for part in parts[1:]:
        assembly.add(part)
    volume = assembly.finish()
    _check_values(volume)
    assert volume.shape == SHAPE and 0 <= volume.min() <= volume.max() <= 255


class _Service:
    """A segmentation service that says what it is told to say."""

    server = "host:1"

    def __init__(self, described: proxy.Description) -> None:
        self._described = described

    def credentials(self) -> list[Any]:
        return []

    def Describe(self, *_: Any, **__: Any) -> proxy.Description:  # noqa: N802
        return self._described


def _link(described: proxy.Description = DESCRIBED) -> Any:
    service: Any = _Service(described)
    link = SegmentationLink(service, LABELS, SHAPE, "d" * 64, 1.0, str)
    link._stub = service
    return link


def read_answer(content: bytes, folder: Path) -> None:
    parts = iter([proxy.AnswerPart.FromString(part) for part in parts_of(content)])
    answer = _link()._receive(parts, proxy.LABELS, REQUEST)
    assert answer.shape == SHAPE and answer.max() < len(LABELS)


def read_service(content: bytes, folder: Path) -> None:
    link = _link(proxy.Description.FromString(content))
    link._compare()
    assert 0 <= link._deadline_s <= 366 * 86400


VOLUMES = [_serialized(volume_parts(each, proxy.LABELS, REQUEST)) for each in (VOLUME, HALF)]
ANSWERS = _serialized(answer_parts(ANSWER, proxy.LABELS, REQUEST))
READERS = (
    Reader(
        "volume",
        framed(VOLUMES[0]),
        _draw_parts(VOLUMES),
        read_volume,
        (DecodeError, Refusal, PartsInvalid),
    ),
    Reader(
        "segmentation-answer",
        framed(ANSWERS),
        _draw_parts([ANSWERS]),
        read_answer,
        (DecodeError, PartsInvalid),
    ),
    Reader(
        "segmentation-service",
        DESCRIBED.SerializeToString(),
        spoiled([DESCRIBED]),
        read_service,
        (DecodeError, ServiceMismatch),
    ),
)
