"""The typed model of run.json."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from polyclinic.federation.events import Word

SCORE_NAMES = {"segmentation": "Dice", "classification": "balanced accuracy", "own": "score"}
Part = TypeVar("Part", bound=BaseModel)
Count = Annotated[
    int | None, BeforeValidator(lambda value: value if isinstance(value, int) else None)
]


def explain(error: ValidationError) -> str:
    """Return the first fault in words, with the field that has it."""
    first = error.errors()[0]
    where = ".".join(str(piece) for piece in first["loc"])
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ArmState(_State):
    """One strategy of a run; `kind` is the name of its method, empty for rounds of averaging."""

    name: Word
    title: Word = ""
    note: Word = ""
    kind: Word = ""


class HospitalState(_State):
    """One hospital of a run.

    Attributes:
        modality: Imaging modality, such as T1.
        training: Number of training cases; `validation` and `test` likewise.
        task: The hospital's own task; empty where all hospitals have the same.
        describes: Whether the hospital only describes its images.
    """

    modality: Word = ""
    training: Count = None
    validation: Count = None
    test: Count = None
    task: Word = ""
    describes: bool = False


class OpponentState(_State):
    """A model that a strategy is compared with; `group` is rule, single, control or restored."""

    name: Word = ""
    title: Word = ""
    group: Word = ""
    note: Word = ""


class ComparisonState(_State):
    """The models that a strategy is compared with."""

    arm: Word
    entries: tuple[OpponentState, ...] = ()


class RunState(BaseModel):
    """The content of run.json; a method may keep a part of its own, which `part` reads."""

    model_config = ConfigDict(frozen=True, extra="allow")

    state: Word
    arms: tuple[ArmState, ...]
    name: Word = ""
    reason: Word = ""
    started: Word = ""
    finished: Word = ""
    versions: Mapping[Word, Word] = {}
    seed: Count = None
    rounds: Count = None
    task: Word = "segmentation"
    score_name: Word = "score"
    labels: tuple[Word, ...] = ()
    hospitals: Mapping[Word, HospitalState] = {}
    comparison: ComparisonState | None = None

    def part(self, name: str, model: type[Part]) -> Part | None:
        """Read the part that a method keeps in run.json under its name; None if there is none.

        Raises:
            pydantic.ValidationError: The part is damaged.
        """
        found: Any = (self.model_extra or {}).get(name)
        return model.model_validate(found) if found else None
