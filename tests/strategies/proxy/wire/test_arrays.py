"""Arrays in parts: what is cut can be put together, and nothing else is taken."""

import numpy as np
import pytest

from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from polyclinic_strategies.proxy.wire.arrays import (
    PART_BYTES,
    Assembly,
    PartsInvalid,
    answer_parts,
    answer_shape,
    cut,
    volume_parts,
)

SHAPE = (128, 96, 100)  # more than one part


def put_together(parts: list[wire.VolumePart] | list[wire.AnswerPart], dtype: type) -> np.ndarray:
    assembly = Assembly(parts[0].header.shape, np.dtype(dtype))
    for part in parts[1:]:
        assembly.add(part)
    return assembly.finish()


@pytest.mark.parametrize(("dtype", "code"), [(np.uint8, wire.UINT8), (np.float16, wire.FLOAT16)])
def test_a_volume_is_the_same_on_the_other_side(dtype: type, code: int) -> None:
    volume = np.random.default_rng(0).integers(0, 256, SHAPE).astype(dtype)
    parts = list(volume_parts(volume, wire.LABELS, bytes(range(16))))
    assert (parts[0].header.dtype, parts[0].header.answer, parts[0].header.request_id) == (
        code,
        wire.LABELS,
        bytes(range(16)),
    )
    assert all(len(part.data) <= PART_BYTES for part in parts[1:])
    np.testing.assert_array_equal(put_together(parts, dtype), volume)


def test_an_answer_is_the_same_on_the_other_side_in_whatever_order_its_memory_is() -> None:
    answer = (
        np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8).transpose(0, 3, 1, 2)
    )
    np.testing.assert_array_equal(
        put_together(list(answer_parts(answer, wire.PROBABILITIES, b"")), np.uint8), answer
    )


def test_the_shape_of_an_answer() -> None:
    assert answer_shape(wire.LABELS, (3, 4, 5), 4) == (3, 4, 5)
    assert answer_shape(wire.PROBABILITIES, (3, 4, 5), 4) == (3, 3, 4, 5)


def test_parts_are_as_large_as_allowed_and_no_larger() -> None:
    assert [len(part) for part in cut(np.zeros(2 * PART_BYTES + 1, np.uint8))] == [
        PART_BYTES,
        PART_BYTES,
        1,
    ]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (wire.VolumePart(data=bytes(9)), "more bytes than the 8"),
        (wire.VolumePart(data=b""), "carries no data"),
        (wire.VolumePart(), "carries no data"),
        (wire.VolumePart(header=wire.VolumeHeader()), "carries no data"),
        (wire.VolumePart(data=bytes(PART_BYTES + 1)), "at most"),
    ],
)
def test_what_is_not_announced_is_not_taken(part: wire.VolumePart, said: str) -> None:
    assembly = Assembly((2, 2, 2), np.dtype(np.uint8))
    with pytest.raises(PartsInvalid, match=said):
        assembly.add(part)
    assert assembly.filled == 0


def test_what_is_missing_is_said() -> None:
    assembly = Assembly((2, 2, 2), np.dtype(np.uint8))
    assembly.add(wire.VolumePart(data=bytes(5)))
    with pytest.raises(PartsInvalid, match="after 5 of 8 bytes"):
        assembly.finish()
