"""Requests that were sound once: for tests and benchmarks of what a service does with rubbish."""

import random
from collections.abc import Sequence

from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire

MOST_BYTES = 2000  # of rubbish


def mutate(sound: Sequence[bytes], draw: random.Random) -> list[bytes]:
    """Make a request with one to four faults.

    Args:
        sound: The messages of a request that is answered.
        draw: Chooses what.
    """
    found = list(sound)
    for _ in range(draw.randint(1, 4)):
        draw.choice((_flip, _cut_short, _drop, _double, _shuffle, _insert, _another_header))(
            found, draw
        )
    return found


def _flip(found: list[bytes], draw: random.Random) -> None:
    place = draw.randrange(len(found)) if found else 0
    if found and found[place]:
        spoiled = bytearray(found[place])
        for _ in range(draw.randint(1, 8)):
            spoiled[min(draw.randrange(len(spoiled)), draw.randrange(2, 64), len(spoiled) - 1)] ^= (
                1 << draw.randrange(8)
            )
        found[place] = bytes(spoiled)


def _cut_short(found: list[bytes], draw: random.Random) -> None:
    if found:
        place = draw.randrange(len(found))
        found[place] = found[place][: draw.randrange(len(found[place]) + 1)]


def _drop(found: list[bytes], draw: random.Random) -> None:
    if found:
        del found[draw.randrange(len(found))]


def _double(found: list[bytes], draw: random.Random) -> None:
    if found:
        found.insert(draw.randrange(len(found) + 1), draw.choice(found))


def _shuffle(found: list[bytes], draw: random.Random) -> None:
    draw.shuffle(found)


def _insert(found: list[bytes], draw: random.Random) -> None:
    found.insert(draw.randrange(len(found) + 1), draw.randbytes(draw.randrange(MOST_BYTES)))


def _another_header(found: list[bytes], draw: random.Random) -> None:
    number = lambda: draw.choice((0, 1, 16, 24, 2**16, 2**31, 2**32 - 1))  # noqa: E731
    header = wire.VolumeHeader(
        shape=[number() for _ in range(draw.randrange(6))],
        dtype=draw.randrange(-1, 5),
        answer=draw.randrange(-1, 5),  # type: ignore[arg-type]
        request_id=draw.randbytes(draw.choice((0, 15, 16, 17, 1000))),
    )
    message = wire.VolumePart(header=header).SerializeToString()
    found[:1] = [message]
