"""The typed model of run.json."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from polyclinic.errors import RunError
from polyclinic.federation.events import Word
from polyclinic.federation.live_state import LiveState

Part = TypeVar("Part", bound=BaseModel)
Found = TypeVar("Found")
Count = Annotated[
    int | None, BeforeValidator(lambda value: value if isinstance(value, int) else None)
]


EXPECTED = {
    "model_type": "an object was expected",
    "dict_type": "an object was expected",
    "mapping_type": "an object was expected",
    "tuple_type": "a list was expected",
}


def explain(error: ValidationError, inside: str = "") -> str:
    """Name the first thing that is wrong in a file; `inside` names the part of it that was read."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, filter(None, (inside, *map(str, first["loc"])))))
    if first["type"] == "missing":
        return f"'{where}' is missing"
    message = EXPECTED.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    return f"'{where}': {message}" if where else message


def checked(path: Path, read: Callable[[], Found], inside: str = "") -> Found:
    """Return what `read` makes of a file.

    Args:
        path: The file.
        read: Validates what was read.
        inside: Name of the part of the file; the whole if empty.

    Raises:
        RunError: The file is damaged.
    """
    try:
        return read()
    except ValidationError as error:
        problem = explain(error, inside)
    except OverflowError as error:
        problem = str(error)
    raise RunError(f"{path}: is damaged ({problem}).")


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


class PlanState(_State):
    """The plan that a run's settings came from: its file's name, and its SHA-256."""

    name: Word = ""
    digest: Word = ""


class RunState(BaseModel):
    """The content of run.json; a method may keep a part of its own, which `part` reads.

    Attributes:
        simulated: Whether the hospitals were in the coordinator's process.
    """

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
    plan: PlanState | None = None
    simulated: bool = False

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, found: object) -> object:
        """Read null as absent."""
        if not isinstance(found, Mapping):
            return found
        return {key: value for key, value in found.items() if value is not None}

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the strategies, by their names."""
        return {arm.name: arm.title or arm.name for arm in self.arms}

    def live_state(self) -> LiveState:
        """Make what is known of the run before its first event."""
        without = frozenset(arm.name for arm in self.arms if arm.kind)
        return LiveState(self.titles, self.rounds or 0, self.score_name, without)

    def part(self, name: str, model: type[Part]) -> Part | None:
        """Read the part that a method keeps in run.json under its name; None if there is none.

        Raises:
            pydantic.ValidationError: The part is damaged.
        """
        found: Any = (self.model_extra or {}).get(name)
        return model.model_validate(found) if found else None
