"""What the training of a deformation proxy measured: proxy.json read into frozen dataclasses.

A run that stopped early has less in it, so that everything may be missing; what is there must be of the right kind.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from polyclinic.errors import RunError
from polyclinic.reporting.measurements import clean, count
from polyclinic.reporting.measurements import number as finite

FILE = "proxy.json"
FORMAT = 1
ORIGINALS, RANDOM, LEARNED = "originals", "random", "learned"
MEAN = "mean"
LARGEST = 1e12  # what is larger is no measurement


@dataclass(frozen=True)
class Attempt:
    """One restart of an attacker, see `polyclinic_strategies.proxy.attacks.verification.Recognition`."""

    auc: float
    tpr: float | None = None
    rank1: float | None = None
    low: float | None = None
    high: float | None = None
    people: int | None = None


@dataclass(frozen=True)
class Attack:
    """What one attacker reached: at least one attempt."""

    name: str
    attempts: tuple[Attempt, ...]

    @property
    def auc(self) -> float:
        """The mean over the restarts."""
        return fmean(each.auc for each in self.attempts)

    @property
    def best(self) -> Attempt:
        """The restart that recognized best."""
        return max(self.attempts, key=lambda each: each.auc)

    @property
    def tpr(self) -> float | None:
        """The mean over the restarts."""
        return mean_of(each.tpr for each in self.attempts)

    @property
    def rank1(self) -> float | None:
        """The mean over the restarts."""
        return mean_of(each.rank1 for each in self.attempts)


@dataclass(frozen=True)
class Arm:
    """One way to warp, or not to."""

    name: str
    title: str
    strength_mm: float | None
    largest_mm: float | None
    smallest_jacobian: float | None
    folded: float | None
    round_trip: float | None
    dice: Mapping[str, float]
    attacks: tuple[Attack, ...]


@dataclass(frozen=True)
class Extra:
    """Another question to the same attackers."""

    title: str
    note: str
    attacks: tuple[Attack, ...]


@dataclass(frozen=True)
class Point:
    """One strength of one arm: what the round trip costs, and what attackers reach."""

    arm: str
    strength_mm: float | None
    round_trip: float
    auc: float


@dataclass(frozen=True)
class ProxyRun:
    """All of it. `losses` are each loss's steps and values, `pictures` names of files under pictures/ with their titles."""

    folder: Path
    name: str
    version: str
    date: float | None
    seed: int | None
    seconds: float | None
    people: Mapping[str, int]
    visits: int | None
    labels: tuple[str, ...]
    reference: str
    shape: tuple[int, ...]
    direct: Mapping[str, float]
    cases: int | None
    arms: tuple[Arm, ...]
    curve: tuple[Point, ...]
    extras: tuple[Extra, ...]
    losses: Mapping[str, tuple[tuple[float, float], ...]]
    pictures: tuple[tuple[str, str], ...]

    def arm(self, name: str) -> Arm | None:
        """The arm of a name."""
        return next((arm for arm in self.arms if arm.name == name), None)


def strongest(attacks: Sequence[Attack]) -> Attack | None:
    """The attacker with the highest mean AUC."""
    return max(attacks, key=lambda each: each.auc, default=None)


def highest(attacks: Sequence[Attack]) -> tuple[Attack, Attempt] | None:
    """The restart with the highest AUC, of whichever attacker."""
    attack = max(attacks, key=lambda each: each.best.auc, default=None)
    return None if attack is None else (attack, attack.best)


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def number(value: object) -> float | None:
    """A number that a drawing can show, or None."""
    found = finite(value)
    return found if found is not None and abs(found) <= LARGEST else None


def read_proxy(out: Path) -> ProxyRun:
    """Read what the training of a proxy left in its folder.

    Raises:
        RunError: There is no proxy.json, or it is damaged, or another version's.
    """
    path = out / FILE
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{out}: there is no {FILE} here. Name the folder that `polyclinic-server train-proxy` wrote."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}). There is no report without it."
        ) from error
    try:
        return _build(out, found)
    except (TypeError, ValueError, OverflowError) as error:
        raise RunError(f"{path}: is damaged ({error}). There is no report without it.") from error


def _build(out: Path, raw: object) -> ProxyRun:
    found = _mapping(raw)
    if found.get("format") not in (None, FORMAT):
        raise ValueError(
            f"its format is {clean(found['format'])[:20]}, this version reads {FORMAT}"
        )
    direct, people = _mapping(found.get("direct")), _mapping(found.get("people"))
    return ProxyRun(
        folder=out,
        name=clean(found.get("name")) or "deformation proxy",
        version=clean(found.get("version")),
        date=number(found.get("date")),
        seed=count(found.get("seed")),
        seconds=number(found.get("seconds")),
        people={
            clean(role): many for role, each in people.items() if (many := count(each)) is not None
        },
        visits=count(found.get("visits")),
        labels=tuple(clean(label) for label in _sequence(found.get("labels"))),
        reference=clean(found.get("reference")),
        shape=tuple(
            int(size)
            for each in _sequence(found.get("shape"))
            if (size := number(each)) is not None
        ),
        direct=_numbers(direct.get("dice")),
        cases=count(direct.get("cases")),
        arms=tuple(_arm(_mapping(arm)) for arm in _sequence(found.get("arms"))),
        curve=_curve(_sequence(found.get("curve"))),
        extras=tuple(_extra(_mapping(extra)) for extra in _sequence(found.get("extra"))),
        losses=_losses(_sequence(found.get("losses"))),
        pictures=_pictures(_sequence(found.get("pictures"))),
    )


def _arm(found: Mapping[str, Any]) -> Arm:
    name = clean(found.get("name")) or "unnamed"
    return Arm(
        name=name,
        title=clean(found.get("title")) or name,
        strength_mm=number(found.get("strength_mm")),
        largest_mm=number(found.get("largest_mm")),
        smallest_jacobian=number(found.get("smallest_jacobian")),
        folded=number(found.get("folded")),
        round_trip=number(found.get("round_trip")),
        dice=_numbers(found.get("dice")),
        attacks=_attacks(found.get("attackers")),
    )


def _extra(found: Mapping[str, Any]) -> Extra:
    return Extra(
        clean(found.get("title")) or "another question",
        clean(found.get("note")),
        _attacks(found.get("attackers")),
    )


def _attacks(found: object) -> tuple[Attack, ...]:
    """Attackers with at least one AUC."""
    attacks = []
    for name, restarts in _mapping(found).items():
        attempts = [
            attempt
            for each in _sequence(restarts)
            if (attempt := _attempt(_mapping(each))) is not None
        ]
        if attempts:
            attacks.append(Attack(clean(name), tuple(attempts)))
    return tuple(attacks)


def _attempt(found: Mapping[str, Any]) -> Attempt | None:
    auc = number(found.get("auc"))
    if auc is None:
        return None
    tpr, rank1, low, high = (number(found.get(key)) for key in ("tpr", "rank1", "low", "high"))
    return Attempt(auc, tpr, rank1, low, high, count(found.get("people")))


def _curve(found: Sequence[Any]) -> tuple[Point, ...]:
    points = []
    for each in map(_mapping, found):
        round_trip, auc = number(each.get("round_trip")), number(each.get("auc"))
        if round_trip is not None and auc is not None:
            points.append(
                Point(clean(each.get("arm")), number(each.get("strength_mm")), round_trip, auc)
            )
    return tuple(points)


def _losses(found: Sequence[Any]) -> dict[str, tuple[tuple[float, float], ...]]:
    losses: dict[str, list[tuple[float, float]]] = {}
    for each in map(_mapping, found):
        step = number(each.get("step"))
        for name, raw in each.items():
            value = number(raw)
            if name != "step" and step is not None and value is not None:
                losses.setdefault(clean(name), []).append((step, value))
    return {name: tuple(sorted(points)) for name, points in losses.items()}


def _pictures(found: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    """The last part of each file's name: pictures lie in one folder, and a name can lead nowhere else."""
    named = [
        (clean(each.get("file")).rpartition("/")[2], clean(each.get("title")))
        for each in map(_mapping, found)
    ]
    return tuple((file, title or file) for file, title in named if file)


def _numbers(found: object) -> dict[str, float]:
    return {
        clean(name): value
        for name, raw in _mapping(found).items()
        if (value := number(raw)) is not None
    }


def _mapping(found: object) -> Mapping[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise TypeError(f"an object was expected, not {type(found).__name__}")
    return found


def _sequence(found: object) -> Sequence[Any]:
    if found is None:
        return ()
    if not isinstance(found, list):
        raise TypeError(f"a list was expected, not {type(found).__name__}")
    return found
