"""A hospital's contribution: a task vector, statistics of its features, and their provenance.

A contribution is one safetensors file. Its tensors are called `task_vector/NAME` and
`statistics/NAME`. Its only metadata is `polyclinic`, the provenance as JSON with sorted keys, so
that equal contributions are equal bytes. The file is named by the SHA-256 of those bytes.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from polyclinic.describing.statistics import DESCRIPTION
from polyclinic.learning.state_dict import StateDict, save_state
from polyclinic.store.refusals import (
    BaseMismatch,
    ContributionDamaged,
    ContributionTooLarge,
    NormTooLarge,
    NotFinite,
    ShapeRefused,
    SiteMismatch,
    StaleBase,
    StatisticsMissing,
    TaskMismatch,
    TensorsExtra,
    TensorsMissing,
    TooManyExamples,
    TypeRefused,
    UnknownSite,
    UpdateTooLong,
)
from polyclinic.system.durable import file_digest, make_folder, put_in_place, temporary_file

__all__ = [
    "Contribution",
    "Requirements",
    "TensorFile",
    "check_contribution",
    "check_suits",
    "file_digest",
    "read_contribution",
    "write_contribution",
]

OPEN: Any = safe_open  # safetensors is only partly typed
TASK_VECTOR, STATISTICS = "task_vector/", "statistics/"
FEWEST_NORMS = 3  # the median of fewer norms says nothing
MAX_TEXT = 200  # characters of a name
MAX_METRICS = 1000
MAX_EXAMPLES = 2**53  # up to here a float64 holds every whole number exactly
MOST_EXAMPLES = 10**7  # that a contribution may claim, to be accepted


@dataclass(frozen=True)
class Contribution:
    """Provenance of a task vector; the tensors stay in the file.

    Example:
        ```python
        about = Contribution("st-mary", "0" * 64, "brain", 12, {"loss": 0.3}, 1.7e9, "0.1.0")
        path = write_contribution(folder, about, {"conv.weight": task_vector}, statistics={})
        ```

    Attributes:
        site: Name of the hospital.
        base: `state_digest` of the model from which the hospital trained.
        task: Name of the task; the coordinator compares it literally.
        num_examples: Number of training examples, at least 1.
        metrics: The hospital's own measurements; finite.
        created: Seconds since 1970, UTC, by the hospital's clock.
        version: Version of polyclinic.
    """

    site: str
    base: str
    task: str
    num_examples: int
    metrics: Mapping[str, float]
    created: float
    version: str


@dataclass(frozen=True)
class Requirements:
    """What the coordinator accepts.

    Attributes:
        base: `state_digest` of the newest base.
        layout: Names and shapes of the base's floating-point tensors.
        task: Name of the federation's task.
        sites: Names of its hospitals; None accepts everybody.
        max_bytes: Largest size of a file.
        max_norm_ratio: Largest norm of a task vector, in medians of the others' norms; 0 for no
            limit.
        older_bases: Digest of each earlier base, and how many bases it is behind the newest; 1 is
            the one before the newest.
        max_staleness: How many bases a contribution may be behind.
        statistics: Kinds of statistics that it must hold, as `TensorFile.kinds` names them.
        max_norm: Largest norm of a task vector, whatever the others' are; 0 for no limit.
        inspect: Called with the open file and its sender, after everything else: raises
            `ContributionRefused` for what a method does not accept.
    """

    base: str
    layout: Mapping[str, tuple[int, ...]]
    task: str
    sites: frozenset[str] | None
    max_bytes: int
    max_norm_ratio: float
    older_bases: Mapping[str, int]
    max_staleness: int
    statistics: frozenset[str] = frozenset()
    max_norm: float = 0.0
    inspect: "Inspect | None" = None


Inspect = Callable[["TensorFile", str], None]


class TensorFile:
    """An open contribution; each tensor is read when it is asked for.

    Raises:
        ContributionDamaged: The file is not a contribution.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = OPEN(path, framework="pt")
            keys = sorted(self._file.keys())
            self.contribution = _parse((self._file.metadata() or {}).get("polyclinic", ""))
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            raise ContributionDamaged(path.name, str(error).split("\n", maxsplit=1)[0]) from error
        self.names = [key.removeprefix(TASK_VECTOR) for key in keys if key.startswith(TASK_VECTOR)]
        self.statistics = [
            key.removeprefix(STATISTICS) for key in keys if key.startswith(STATISTICS)
        ]
        self.others = [key for key in keys if not key.startswith((TASK_VECTOR, STATISTICS))]

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file = None

    def task_vector(self, name: str) -> Tensor:
        """Read the task vector of one tensor of the model."""
        tensor: Tensor = self._file.get_tensor(TASK_VECTOR + name)
        return tensor

    def statistic(self, name: str) -> Tensor:
        """Read one statistic."""
        tensor: Tensor = self._file.get_tensor(STATISTICS + name)
        return tensor

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of its statistics, as an assignment asks for them.

        `site/NAME` is of kind NAME; `KIND/PARAMETER` and `KIND.PART` are of kind KIND.
        """
        return frozenset(
            re.split(r"[/.]", name.removeprefix(DESCRIPTION), maxsplit=1)[0]
            for name in self.statistics
        )

    def statistic_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one statistic, from the header alone."""
        return tuple(self._file.get_slice(STATISTICS + name).get_shape())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor of the task vector, from the header alone."""
        return tuple(self._file.get_slice(TASK_VECTOR + name).get_shape())

    def types(self) -> dict[str, str]:
        """Return every tensor's type as safetensors calls it, such as F32, from the header."""
        keys = [TASK_VECTOR + name for name in self.names] + [
            STATISTICS + name for name in self.statistics
        ]
        return {key: str(self._file.get_slice(key).get_dtype()) for key in keys}


def write_contribution(
    folder: Path, contribution: Contribution, task_vector: StateDict, statistics: StateDict
) -> Path:
    """Write FOLDER/DIGEST.safetensors; the file is whole and on the disk once this returns.

    Raises:
        ValueError: The provenance is not as `Contribution` describes it, for example because a
            metric is not finite.
        DiskFull: No room.
    """
    text = json.dumps(
        asdict(contribution) | {"metrics": dict(contribution.metrics)},
        sort_keys=True,
        allow_nan=False,
    )
    _parse(text)
    make_folder(folder)
    tensors = {TASK_VECTOR + name: tensor for name, tensor in task_vector.items()}
    tensors |= {STATISTICS + name: tensor for name, tensor in statistics.items()}
    with temporary_file(folder, "contribution") as unfinished:
        save_state(tensors, unfinished, {"polyclinic": text})
        path = folder / f"{file_digest(unfinished)}.safetensors"
        put_in_place(unfinished, path)
    return path


def read_contribution(path: Path) -> Contribution:
    """Read the provenance, from the header alone.

    Raises:
        ContributionDamaged: The file is not a contribution.
    """
    with TensorFile(path) as file:
        return file.contribution


def check_contribution(
    path: Path, sender: str, requirements: Requirements, norms: Sequence[float]
) -> tuple[Contribution, float]:
    """Check a contribution before it is used: the header first, then one tensor at a time.

    Args:
        path: The file as it arrived.
        sender: The site that sent it, whatever the file says.
        requirements: What is accepted.
        norms: L2 norms of the other hospitals' active task vectors.

    Returns:
        Its provenance, and the L2 norm of its task vector, summed in float64.

    Raises:
        ContributionRefused: One of the types in `polyclinic.store.refusals`.
    """
    if requirements.sites is not None and sender not in requirements.sites:
        raise UnknownSite(sender)
    if (size := path.stat().st_size) > requirements.max_bytes:
        raise ContributionTooLarge(sender, size, requirements.max_bytes)
    with TensorFile(path) as file:
        _check_provenance(file.contribution, sender, requirements)
        check_suits(file, sender, requirements.layout)
        if missing := sorted(requirements.statistics - file.kinds):
            raise StatisticsMissing(sender, missing)
        norm = _measure(file, sender)
        _check_norm(sender, norm, norms, requirements)
        if requirements.inspect is not None:
            requirements.inspect(file, sender)
        return file.contribution, norm


def check_suits(file: TensorFile, sender: str, layout: Mapping[str, tuple[int, ...]]) -> None:
    """Check, by the header alone, that a contribution can be merged into a base of this layout.

    Raises:
        ContributionRefused: It belongs to another network, or claims impossible numbers.
    """
    if (claimed := file.contribution.num_examples) > MOST_EXAMPLES:
        raise TooManyExamples(sender, claimed, MOST_EXAMPLES)
    _check_layout(file, sender, layout)


def staleness_of(base: str, requirements: Requirements) -> int | None:
    """Return how many bases behind the newest a contribution made on `base` is.

    None means that the federation never had that base.
    """
    return 0 if base == requirements.base else requirements.older_bases.get(base)


def _check_provenance(contribution: Contribution, sender: str, requirements: Requirements) -> None:
    if contribution.site != sender:
        raise SiteMismatch(sender, contribution.site)
    if contribution.task != requirements.task:
        raise TaskMismatch(sender, requirements.task, contribution.task)
    staleness = staleness_of(contribution.base, requirements)
    if staleness is None:
        raise BaseMismatch(sender, requirements.base, contribution.base)
    if staleness > requirements.max_staleness:
        raise StaleBase(sender, staleness, requirements.max_staleness)


def _check_layout(file: TensorFile, sender: str, layout: Mapping[str, tuple[int, ...]]) -> None:
    if missing := sorted(set(layout) - set(file.names)):
        raise TensorsMissing(sender, missing)
    if extra := sorted(set(file.names) - set(layout)) + file.others:
        raise TensorsExtra(sender, extra)
    for key, kind in file.types().items():
        if kind != "F32":
            raise TypeRefused(sender, key, kind)
    for name in file.names:
        if file.shape(name) != tuple(layout[name]):
            raise ShapeRefused(sender, name, layout[name], file.shape(name))


def _measure(file: TensorFile, sender: str) -> float:
    """Return the L2 norm of the task vector, and check that every tensor is finite."""
    squares = 0.0
    for name in file.names:
        length = float(torch.linalg.vector_norm(file.task_vector(name), dtype=torch.float64))
        if not math.isfinite(length):  # squares of finite float32 do not overflow in float64
            raise NotFinite(sender, TASK_VECTOR + name)
        squares += length * length
    for name in file.statistics:
        if not bool(torch.isfinite(file.statistic(name)).all()):
            raise NotFinite(sender, STATISTICS + name)
    return math.sqrt(squares)


def _check_norm(
    sender: str, norm: float, norms: Sequence[float], requirements: Requirements
) -> None:
    limit, ratio = requirements.max_norm, requirements.max_norm_ratio
    if limit > 0 and norm > limit:
        raise UpdateTooLong(sender, norm, limit)
    usual = median(norms) if len(norms) >= FEWEST_NORMS else 0.0
    if ratio > 0 and usual > 0 and norm > ratio * usual:
        raise NormTooLarge(sender, norm, usual, ratio)


def _parse(text: str) -> Contribution:
    """Parse the provenance, and check the type and size of every field.

    Raises:
        ValueError: The text is not a valid provenance.
    """
    if not text:
        raise ValueError("it has no polyclinic metadata")
    found = json.loads(text)
    if not isinstance(found, dict) or set(found) != set(Contribution.__dataclass_fields__):
        raise ValueError("its metadata lacks a field or has another")
    for key in ("site", "base", "task", "version"):
        if (
            not isinstance(found[key], str)
            or not 0 < len(found[key]) <= MAX_TEXT
            or not found[key].isprintable()
        ):
            raise ValueError(f"its {key} is not a printable text of 1 to {MAX_TEXT} characters")
    if type(found["num_examples"]) is not int or not 0 < found["num_examples"] <= MAX_EXAMPLES:
        raise ValueError("its num_examples is not a positive whole number")
    metrics = found["metrics"]
    if (
        not isinstance(metrics, dict)
        or len(metrics) > MAX_METRICS
        or not all(map(_is_finite, [found["created"], *metrics.values()]))
    ):
        raise ValueError("its metrics or the time of its creation are not finite numbers")
    return Contribution(
        **{
            **found,
            "metrics": {key: float(value) for key, value in metrics.items()},
            "created": float(found["created"]),
        }
    )


def _is_finite(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )
