"""What the training of a deformation proxy measured: proxy.json.

A run that stopped early has less in it, so that everything may be missing. What is there must be of
the right kind: an object, a list, or a value; a figure that is no number is read as None.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from polyclinic.errors import RunError
from polyclinic.federation.events import Word
from polyclinic.federation.run_state import Count, checked
from polyclinic.system.text import clean, parse_json
from polyclinic_strategies.proxy.report.fields import (
    Series,
    drawable,
    read_attacks,
    read_counts,
    read_items,
    read_numbers,
    read_object,
    read_points,
    read_series,
    read_sizes,
)

FILE = "proxy.json"
FORMAT = 1
ORIGINALS, RANDOM, LEARNED = "originals", "random", "learned"
MEAN = "mean"
UNNAMED = "deformation proxy"


Number = Annotated[float | None, BeforeValidator(drawable)]
Numbers = Annotated[Mapping[Word, float], BeforeValidator(read_numbers)]
Words = Annotated[tuple[Word, ...], BeforeValidator(read_items)]


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Attempt(_State):
    """One restart of an attacker, as `attacks.verification.Recognition` defines the figures."""

    auc: float
    tpr: Number = None
    rank1: Number = None
    low: Number = None
    high: Number = None
    people: Count = None


class Attack(_State):
    """What one attacker reached: at least one attempt."""

    name: Word
    attempts: tuple[Attempt, ...]

    @property
    def auc(self) -> float:
        """Mean over the restarts."""
        return fmean(each.auc for each in self.attempts)

    @property
    def best(self) -> Attempt:
        """Restart that recognized best."""
        return max(self.attempts, key=lambda each: each.auc)

    @property
    def tpr(self) -> float | None:
        """Mean over the restarts."""
        return mean_of(each.tpr for each in self.attempts)

    @property
    def rank1(self) -> float | None:
        """Mean over the restarts."""
        return mean_of(each.rank1 for each in self.attempts)


Attacks = Annotated[tuple[Attack, ...], BeforeValidator(read_attacks)]


class WarpState(_State):
    """One way to warp, or not to."""

    name: Word = ""
    title: Word = ""
    strength_mm: Number = None
    largest_mm: Number = None
    smallest_jacobian: Number = None
    folded: Number = None
    round_trip: Number = None
    dice: Numbers = {}
    attacks: Attacks = Field(default=(), alias="attackers")

    @model_validator(mode="before")
    @classmethod
    def _entitle(cls, found: object) -> Mapping[str, Any]:
        known = read_object(found)
        name = clean(known.get("name")) or "unnamed"
        return {**known, "name": name, "title": clean(known.get("title")) or name}


class ExtraState(_State):
    """Another question to the same attackers."""

    title: Word = ""
    note: Word = ""
    attacks: Attacks = Field(default=(), alias="attackers")

    @field_validator("title")
    @classmethod
    def _entitle(cls, title: str) -> str:
        return title or "another question"


class Point(_State):
    """One strength of one warp: what the round trip costs, and what attackers reach."""

    arm: Word = ""
    strength_mm: Number = None
    round_trip: float
    auc: float


class PictureState(_State):
    """A picture in the folder pictures/: its file there, and its title."""

    file: Word = ""
    title: Word = ""


class DirectState(_State):
    """Segmentation without a proxy."""

    dice: Numbers = {}
    cases: Count = None


Warps = Annotated[tuple[WarpState, ...], BeforeValidator(read_items)]
Extras = Annotated[tuple[ExtraState, ...], BeforeValidator(read_items)]


class ProxyState(_State):
    """All that proxy.json says.

    Attributes:
        date: Seconds since 1970.
        people: Number of people by role.
        visits: Number of visits of each person.
        reference: Digest of the reference brain.
        shape: Of a volume, in voxels.
        direct: Segmentation without a proxy.
        curve: What several strengths of a warp cost and hide.
        losses: Steps and values of each loss.
    """

    format: Any = FORMAT
    name: Word = UNNAMED
    version: Word = ""
    date: Number = None
    seed: Count = None
    seconds: Number = None
    people: Annotated[Mapping[Word, int], BeforeValidator(read_counts)] = {}
    visits: Count = None
    labels: Words = ()
    reference: Word = ""
    shape: Annotated[tuple[int, ...], BeforeValidator(read_sizes)] = ()
    direct: Annotated[DirectState, BeforeValidator(read_object)] = DirectState()
    warps: Warps = Field(default=(), alias="arms")
    curve: Annotated[tuple[Point, ...], BeforeValidator(read_points)] = ()
    extras: Extras = Field(default=(), alias="extra")
    losses: Annotated[Mapping[Word, Series], BeforeValidator(read_series)] = {}
    pictures: Annotated[tuple[PictureState, ...], BeforeValidator(read_items)] = ()

    @field_validator("format")
    @classmethod
    def _check_format(cls, found: Any) -> Any:
        if found not in (None, FORMAT):
            raise ValueError(f"its format is {str(found)[:20]}, this version reads {FORMAT}")
        return found

    @field_validator("name")
    @classmethod
    def _call(cls, name: str) -> str:
        return name or UNNAMED

    @field_validator("pictures")
    @classmethod
    def _stay_inside(cls, pictures: tuple[PictureState, ...]) -> tuple[PictureState, ...]:
        """Keep the last part of each file's name: all pictures lie in one folder."""
        named = [(each.file.rpartition("/")[2], each.title) for each in pictures]
        return tuple(PictureState(file=file, title=title or file) for file, title in named if file)

    def warp(self, name: str) -> WarpState | None:
        """Return the warp of a name."""
        return next((warp for warp in self.warps if warp.name == name), None)


def strongest(attacks: Sequence[Attack]) -> Attack | None:
    """Return the attacker with the highest mean AUC."""
    return max(attacks, key=lambda each: each.auc, default=None)


def highest(attacks: Sequence[Attack]) -> tuple[Attack, Attempt] | None:
    """Return the restart with the highest AUC, of whichever attacker."""
    attack = max(attacks, key=lambda each: each.best.auc, default=None)
    return None if attack is None else (attack, attack.best)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are known."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def read_proxy(out: Path) -> ProxyState:
    """Read what the training of a proxy left in its folder.

    Raises:
        RunError: There is no proxy.json, or it is damaged, or another version's.
    """
    path = out / FILE
    try:
        found = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{out}: there is no {FILE} here. Name the folder that `polyclinic-server "
            "train-proxy` wrote."
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}). There is no report without it."
        ) from error
    return checked(path, lambda: ProxyState.model_validate(found))
