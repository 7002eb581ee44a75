"""Five hundred spoiled requests.

Each is refused with a status that says so, and the service goes on as before.
"""

import random
from collections import Counter

import grpc
import numpy as np

from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from tests.server.segmentation.mutations import mutate
from tests.server.segmentation.segmentation_services import (
    a_volume,
    caller,
    expected,
    joined,
    messages,
    service,
)

REQUESTS = 500
REFUSALS = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}


def in_parts(size: int) -> list[bytes]:
    """Make a valid request of a few messages."""
    header, whole = messages(a_volume())
    data = wire.VolumePart.FromString(whole).data
    return [
        header,
        *(
            wire.VolumePart(data=data[start : start + size]).SerializeToString()
            for start in range(0, len(data), size)
        ),
    ]


def test_spoiled_requests_are_refused_and_the_service_goes_on() -> None:
    draw, outcomes, sound = random.Random(0), Counter[str](), in_parts(1500)
    with service() as lab, caller(lab.hospital("a")) as someone:
        for _ in range(REQUESTS):
            try:
                someone.ask(mutate(sound, draw))
                outcomes["OK"] += 1  # a flipped bit of a voxel, say
            except grpc.RpcError as error:
                outcomes[error.code().name] += 1
        np.testing.assert_array_equal(joined(someone.ask(sound)), expected(a_volume()))
        assert lab.server.service.queue.reserved == 0
        assert len(lab.lines) == REQUESTS + 1
    assert set(outcomes) <= {"OK", *REFUSALS}, outcomes
    assert outcomes["INVALID_ARGUMENT"] > REQUESTS / 2, outcomes
