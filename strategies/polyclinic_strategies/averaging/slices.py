"""Averaging of large models, a slice at a time: memory does not grow with model or hospitals.

Most of Flower's strategies treat each coordinate by itself. One of them, asked for a slice of the
vector, gives the same bits there as when it is asked for all. Replies lie in files that are mapped,
and so does the result: only a slice of each is in memory.
"""

import copy
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
)

from polyclinic.federation.envelope import (
    BufferArray,
    MappedArray,
    OpenFile,
    array_values,
    wrap,
    write_header,
)

COORDINATEWISE = (FedAvg, FedProx, FedAvgM, FedAdam, FedYogi, FedAdagrad, FedMedian, FedTrimmedAvg)
STATES = frozenset({"current_arrays", "m_t", "v_t", "momentum_vector"})  # that they keep
SLICE = 1 << 20  # coordinates
LARGE = 8 << 20  # vectors of fewer coordinates are taken as a whole
Replies = list[Message]
Aggregated = tuple[ArrayRecord | None, MetricRecord | None]


class Sliced(FedAvg):
    """A strategy of Flower's that aggregates slice by slice; it comes first among base classes."""

    folder: Path | None = None  # for results
    _asked: ArrayRecord | None = None  # what the newest question carries
    _parts: dict[int, FedAvg] | None = None  # a strategy with a state of its own for each slice

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask as the strategy does."""
        self._asked = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregated:
        """Aggregate as the strategy does, a slice at a time if the vector is large."""
        everything = list(replies)
        valid = [reply for reply in everything if not reply.has_error()]
        name, length = _vector(valid)
        if length < LARGE:
            return super().aggregate_train(server_round, everything)
        metrics: MetricRecord | None = None
        with tempfile.TemporaryFile(dir=self.folder) as file, _quiet():
            result = _Result(file, length)
            for start in range(0, length, SLICE):
                cut = slice(start, min(start + SLICE, length))
                part = self._part(server_round, name, cut)
                found, measured = part.aggregate_train(
                    server_round, [_sliced(reply, name, cut) for reply in valid]
                )
                if found is None:
                    return None, measured
                result.append(array_values(found[name]))
                metrics = metrics or measured
            arrays = ArrayRecord()
            arrays[name] = result.array()
        return arrays, metrics

    def _part(self, server_round: int, name: str, cut: slice) -> FedAvg:
        """Return the strategy of one slice, after it was told what was asked."""
        self._parts = {} if self._parts is None else self._parts
        part = self._parts.get(cut.start)
        if part is None:
            part = self._parts[cut.start] = copy.copy(self)
            part.__dict__ |= {"_asked": None, "_parts": None, "fraction_train": 0.0}  # asks nobody
            for state in STATES & vars(part).keys():
                setattr(part, state, None)
        if self._asked is not None:
            record = _slice_of(self._asked, name, cut)
            list(part.configure_train(server_round, record, ConfigRecord(), _NOBODY))
        return part


_NOBODY: Any = None  # the grid of a strategy that asks nobody


class _Result:
    """The aggregated vector, written to a file.

    Args:
        file: Open, empty and without a name.
        length: Number of the vector's coordinates.
    """

    def __init__(self, file: IO[bytes], length: int) -> None:
        self._file, self._length = file, length
        self._dtype = ""

    def append(self, values: np.ndarray[Any, Any]) -> None:
        """Write the next slice."""
        if not self._dtype:
            self._dtype = str(values.dtype)
            self._file.write(write_header(np.broadcast_to(values[:1], (self._length,))))
        self._file.write(np.ascontiguousarray(values).data)

    def array(self) -> Array:
        """Return what was written; it stays readable after the file is closed."""
        self._file.flush()
        return MappedArray(self._dtype, (self._length,), OpenFile(self._file.fileno()))


def _vector(replies: Replies) -> tuple[str, int]:
    """Return the name and the length of the one vector that all replies hold; else "" and 0."""
    found: set[tuple[str, tuple[int, ...]]] = set()
    for reply in replies:
        arrays = list(reply.content.array_records.values())
        if len(arrays) != 1 or len(arrays[0]) != 1:
            return "", 0
        ((name, array),) = arrays[0].items()
        found.add((name, tuple(array.shape)))
    if len(found) != 1:
        return "", 0
    ((name, shape),) = found
    return (name, shape[0]) if len(shape) == 1 else ("", 0)


def _slice_of(arrays: ArrayRecord, name: str, cut: slice) -> ArrayRecord:
    record = ArrayRecord()
    record[name] = BufferArray(array_values(arrays[name])[cut])
    return record


def _sliced(reply: Message, name: str, cut: slice) -> Message:
    """Copy a reply with a slice of its vector."""
    ((key, arrays),) = reply.content.array_records.items()
    others = {other: record for other, record in reply.content.items() if other != key}
    content = RecordDict({key: _slice_of(arrays, name, cut), **others})
    return wrap(content, reply.metadata)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower from logging what every slice does."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
