"""What run.json says of a refinement run, and which of a run's figures are results of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from polyclinic.federation.events import Word
from polyclinic.federation.metrics import Metric, Number, Numbers
from polyclinic.federation.run_state import RunState
from polyclinic.reporting.results import Participant, Results, SiteDistances, unseen

METHOD = "refinement"
CENTRE, REFINED = "centre", "refinement"  # arms: one model for everybody, and one for each hospital


class TriedRecipe(BaseModel):
    """A recipe, and its mean score at the hospitals that tried it."""

    model_config = ConfigDict(frozen=True)

    recipe: Word
    mean: Number = None


TriedRecipes = Annotated[tuple[TriedRecipe, ...], BeforeValidator(lambda value: value or ())]


class DecisionState(BaseModel):
    """The recipe that was taken.

    Attributes:
        recipe: In words, as among those that were tried.
        is_common: Whether it makes one model for everybody.
        gain: Mean over hospitals of what models of their own gain over that.
        error: Standard error of the gain.
        loses: Hospitals for which no gain was shown, and which keep the model for everybody.
    """

    model_config = ConfigDict(frozen=True)

    recipe: Word
    is_common: bool = False
    gain: Number = None
    error: Number = None
    loses: tuple[Word, ...] = ()


class ChoiceState(BaseModel):
    """Recipes that were tried, the best first.

    Attributes:
        left_out: For hospitals that join later.
        own: For hospitals that contributed.
        newcomers, contributors: What was taken for them; early versions took the first, and told
            nothing else.
    """

    model_config = ConfigDict(frozen=True)

    left_out: TriedRecipes = ()
    own: TriedRecipes = ()
    newcomers: DecisionState | None = None
    contributors: DecisionState | None = None


class RefinementState(BaseModel):
    """How models were refined, as it was at the end.

    Attributes:
        statistic: By which distances were measured.
        recipe: For hospitals that join later.
        distances: Matrix over `sites`, in medians of the distances among contributors; None where
            nobody knows the distance.
        coefficients: Of each hospital, as if it had not contributed itself.
        fallback: Why a hospital gets the average of all.
        newcomers: Hospitals that joined with a description alone, in the order of joining; kept by
            some versions only.
    """

    model_config = ConfigDict(frozen=True)

    statistic: Word
    recipe: Word
    sites: tuple[Word, ...]
    contributors: tuple[Word, ...]
    distances: tuple[tuple[Number, ...], ...]
    coefficients: Mapping[Word, Numbers]
    fallback: Annotated[Mapping[Word, Word], BeforeValidator(lambda value: value or {})] = {}
    choice: Annotated[ChoiceState, BeforeValidator(lambda value: value or {})] = Field(
        default_factory=ChoiceState
    )
    newcomers: Annotated[tuple[Word, ...], BeforeValidator(lambda value: value or ())] = ()

    @field_validator("statistic")
    @classmethod
    def _spell(cls, statistic: str) -> str:
        return statistic.replace("_", " ")

    @model_validator(mode="after")
    def _check_distances(self) -> "RefinementState":
        if {len(self.sites)} != {len(self.distances), *map(len, self.distances)}:
            raise ValueError("the distances are not those of the sites")
        return self

    def distance(self, one: str, other: str) -> float | None:
        """Return the distance between two hospitals; None where nobody knows it."""
        if one not in self.sites or other not in self.sites:
            return None
        return self.distances[self.sites.index(one)][self.sites.index(other)]


def read_state(results: Results) -> RefinementState | None:
    """Read the part of run.json about refinement; None if the run did not refine.

    Raises:
        RunError: It is damaged.
    """
    return results.part(METHOD, RefinementState)


def find_distances(run: RunState) -> SiteDistances | None:
    """Return how far hospitals' images are from each other; None if the run did not refine.

    Raises:
        pydantic.ValidationError: The part of run.json about refinement is damaged.
    """
    state = run.part(METHOD, RefinementState)
    if state is None:
        return None
    later = [site for site, each in run.hospitals.items() if each.describes]
    measured = f"by {state.statistic}, in medians of the distances among those who contributed"
    return SiteDistances(state.sites, state.distances, tuple({*later, *state.newcomers}), measured)


def place_figures(results: Results) -> Results:
    """Put the figures of a refinement run where reports expect them.

    Its two arms have no rounds, whatever run.json says (early versions named no kind). Hospitals
    that joined later are listed in the order of joining.

    Raises:
        RunError: The part of run.json about refinement is damaged.
    """
    state = read_state(results)
    if state is None:
        return results
    described = [hospital.name for hospital in results.hospitals if hospital.describes]
    later = list(dict.fromkeys([*state.newcomers, *described]))
    added = unseen(state.sites, [hospital.name for hospital in results.hospitals])
    hospitals = [*results.hospitals, *map(Participant, added)]
    known = {hospital.name: replace(hospital, describes=True) for hospital in hospitals}
    return replace(
        results,
        arms=tuple(
            replace(arm, kind=METHOD) if arm.name in (CENTRE, REFINED) else arm
            for arm in results.arms
        ),
        metrics=pick_results(results.metrics, {arm.name for arm in results.arms}),
        hospitals=(
            *(hospital for hospital in hospitals if hospital.name not in later),
            *(known[name] for name in later if name in known),
        ),
    )


def pick_results(metrics: Sequence[Metric], arms: Collection[str]) -> tuple[Metric, ...]:
    """Keep the figures of arms, without what was measured on the way to one.

    On the way are the base and single hospitals' vectors: their names have a point. What hospitals
    validate while they contribute is the published model, which is the centre's.
    """
    kept = [metric for metric in metrics if metric.arm in arms or "." not in metric.arm]
    return tuple(
        metric.model_copy(update={"arm": CENTRE})
        if (metric.arm, metric.phase) == (REFINED, "validate")
        else metric
        for metric in kept
    )
