"""What run.json says of the universal model's stages; `universal.stage_log` writes it."""

from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from polyclinic.federation.events import Word
from polyclinic.federation.metrics import Number, Numbers, finite
from polyclinic.federation.run_state import Count
from polyclinic.reporting.results import Results

METHOD = "universal"
BEFORE, UNIVERSAL = (
    "before",
    "universal",
)  # arms: encoders before the first and after the last stage


def _known(values: object) -> object:
    """Keep the numbers of a list."""
    found = values if isinstance(values, list | tuple) else ()
    return tuple(known for value in found if (known := finite(value)) is not None)


class ContributionState(BaseModel):
    """One hospital's contribution to a stage.

    Attributes:
        sent, received: Bytes to and from the hospital.
    """

    model_config = ConfigDict(frozen=True)

    site: Word
    digest: Word = ""
    task: Word = ""
    num_examples: Count = None
    sent: Count = None
    received: Count = None


class StageState(BaseModel):
    """One stage.

    Attributes:
        stage: Number, from 1.
        base: Digest of the encoder that hospitals got.
        contributions: Who taught.
        weights, trust: Of every hospital, in a distillation.
        losses: Of the distillation, evenly spread over its steps.
        steps: Of the distillation.
        waited_s: Seconds that it took to gather the contributions.
        seconds: That it took to combine them; None while no encoder has come of it.
    """

    model_config = ConfigDict(frozen=True)

    stage: int
    base: Word = ""
    contributions: tuple[ContributionState, ...]
    weights: Numbers = {}
    trust: Numbers = {}
    losses: Annotated[tuple[float, ...], BeforeValidator(_known)] = ()
    steps: Count = None
    waited_s: Number = None
    seconds: Number = None

    @property
    def step_count(self) -> int:
        """Number of steps of the distillation."""
        return self.steps or len(self.losses)


class UniversalState(BaseModel):
    """All stages so far.

    Attributes:
        combine: How hospitals' encoders become one: distillation, or a rule of merging.
        planned: Number of stages.
        public_images: Number of unlabelled images that the coordinator has.
        library: Number of teachers in the library of encoders, if there is one.
    """

    model_config = ConfigDict(frozen=True)

    combine: Word
    planned: int
    public_images: Count = None
    library: Count = None
    stages: Annotated[tuple[StageState, ...], BeforeValidator(lambda value: value or ())] = ()


def read_state(results: Results) -> UniversalState | None:
    """Read the part of run.json about the universal model; None if the run has none.

    Raises:
        RunError: It is damaged.
    """
    return results.part(METHOD, UniversalState)


def place_figures(results: Results) -> Results:
    """Mark the encoder before the first stage as a reference: it was not built together."""
    arms = tuple(
        replace(arm, reference=True) if (arm.name, arm.kind) == (BEFORE, METHOD) else arm
        for arm in results.arms
    )
    return replace(results, arms=arms)
