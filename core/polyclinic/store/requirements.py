"""What the coordinator accepts of a contribution, and the checks before it is used."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from polyclinic.store.contribution import STATISTICS, TASK_VECTOR, Contribution, TensorFile
from polyclinic.store.refusals import (
    BaseMismatch,
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

FEWEST_NORMS = 3  # the median of fewer norms says nothing
MOST_EXAMPLES = 10**7  # that a contribution may claim, to be accepted

Inspect = Callable[[TensorFile, str], None]


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
    inspect: Inspect | None = None


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
