"""`polyclinic-server refine`: a hospital's refined model from a ledger, without hospitals."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyclinic.errors import ConfigError, RunError
from polyclinic.learning.state_dict import save_state
from polyclinic.store.ledger import Ledger
from polyclinic_strategies.merging.offline import describe_base
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.refinement.choice import Decision
from polyclinic_strategies.refinement.refine import Recipe, Refinement
from polyclinic_strategies.refinement.refiner import Refiner

CHOICE = "refinement.json"  # in the ledger's folder: the chosen recipes with their scores
NEAR = 1.0  # in medians of the distances between contributors


class KeptTry(BaseModel):
    """A recipe that was tried: in words, and its mean score."""

    model_config = ConfigDict(extra="forbid")  # of the recipe, too

    recipe: Recipe
    scores: Mapping[str, float] = {}
    words: str = ""
    mean: float | None = None


class KeptDecision(BaseModel):
    """What was chosen, and why, as `choice.Decision` says it.

    Attributes:
        gain, error: None where nobody knows them.
    """

    model_config = ConfigDict(extra="forbid")

    recipe: Recipe
    common: Recipe
    gain: float | None = None
    error: float | None = None
    loses: tuple[str, ...] = ()
    words: str = ""

    @classmethod
    def keep(cls, decision: Decision) -> "KeptDecision":
        """Make it of a decision; JSON has no infinity."""
        gain, error = (
            each if math.isfinite(each) else None for each in (decision.gain, decision.error)
        )
        return cls(
            recipe=decision.recipe,
            common=decision.common,
            gain=gain,
            error=error,
            loses=decision.loses,
            words=decision.tell(),
        )


class Choice(BaseModel):
    """The content of `CHOICE`: what a run tried, the best first, and its settings.

    Attributes:
        newcomers, contributors: What was chosen for them; missing in ledgers of 0.1.0, which took
            the first that was tried.
        left_out: Tried on each hospital without its own contribution.
        own: Tried on each hospital with its own.
        max_staleness, staleness_discount: Of the run's publisher.
        normalization: Names of the tensors of normalization layers.
    """

    left_out: Annotated[tuple[KeptTry, ...], Field(min_length=1)]
    own: Annotated[tuple[KeptTry, ...], Field(min_length=1)]
    newcomers: KeptDecision | None = None
    contributors: KeptDecision | None = None
    max_staleness: int = 0
    staleness_discount: float = 0.5
    normalization: tuple[str, ...] = ()

    @property
    def recipes(self) -> tuple[Recipe, Recipe]:
        """The recipe for newcomers, and the one for contributors."""
        newcomers, own = self.newcomers, self.contributors
        return (
            newcomers.recipe if newcomers else self.left_out[0].recipe,
            own.recipe if own else self.own[0].recipe,
        )

    @property
    def exceptions(self) -> dict[str, Recipe]:
        """Contributors with another recipe than the one for contributors."""
        own = self.contributors
        return dict.fromkeys(own.loses, own.common) if own else {}


def read_choice(path: Path) -> Choice:
    """Read what a run tried and chose.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        return Choice.model_validate_json(path.read_bytes())
    except (OSError, ValueError, ConfigError) as error:
        raise RunError(
            f"{path} holds no chosen recipe. `polyclinic-server run strategy=refinement` chooses "
            "one."
        ) from error


def open_refiner(ledger: Ledger, choice: Choice) -> Refiner:
    """Make the refiner of a ledger's contributions, with the settings of the run that chose."""
    publisher = Publisher(ledger, choice.max_staleness, choice.staleness_discount)
    return Refiner(publisher, choice.normalization)


def refine_offline(site: str, folder: Path, to: Path | None, *, left_out: bool) -> Refinement:
    """Compute a hospital's coefficients, and write its model if asked; the ledger is not changed.

    Args:
        site: A hospital that contributed or described its images.
        folder: Folder of the ledger.
        to: The safetensors file to write, which `polyclinic-client predict` takes; None: no file.
        left_out: Compute as if the hospital had not contributed.

    Raises:
        UnknownName: There is no hospital of that name.
        RunError: No recipe has been chosen.
        LedgerError: There is no ledger.
    """
    choice = read_choice(folder / CHOICE)
    recipe, own = choice.recipes
    with Ledger.open(folder, create=False) as ledger:
        refiner = open_refiner(ledger, choice)
        if site in refiner.contributors() and not left_out:
            recipe = choice.exceptions.get(site, own)
        refinement = refiner.coefficients(site, recipe, leave_out=left_out)
        if to is not None:
            recipe_words, arm = str(refinement.recipe), f"refinement-{site}"
            described = {**describe_base(ledger), "recipe": recipe_words, "arm": arm}
            save_state(refiner.model(refinement), to, {"polyclinic": json.dumps(described)})
    return refinement


def explain(refinement: Refinement, console: Console) -> None:
    """Print the hospitals in a refined model, with shares and distances, and the nearest one."""
    table = Table(title=Text(f"the model for {refinement.site}: {refinement.recipe}"))
    table.add_column("hospital")
    table.add_column("distance", justify="right")
    table.add_column("share of its vector", justify="right")
    shares, distances = refinement.coefficients, refinement.distances
    for site in sorted({*shares, *distances}, key=lambda each: (-shares.get(each, 0.0), each)):
        distance = f"{distances[site]:.2f}" if site in distances else ""
        share = f"{100 * shares[site]:.0f} %" if shares.get(site) else ""
        table.add_row(Text(site), distance, share)
    console.print(table)
    console.print(_describe_nearest(refinement), markup=False)


def _describe_nearest(refinement: Refinement) -> str:
    if refinement.fallback:
        return f"The model is the uniform mean of all, because {refinement.fallback}."
    if not refinement.coefficients:
        return "The model is the averaged one: no hospital's vector is added to it."
    if not refinement.nearest:
        return "The model is the uniform mean of all; distances are not used."
    distance = refinement.distances[refinement.nearest]
    if refinement.site in refinement.distances:
        return (
            f"{refinement.site} contributed itself. The unit of distances is the median of those "
            "between contributors."
        )
    words = "near" if distance < NEAR else "not near, but within reach"
    return (
        f"The nearest is {refinement.nearest}, at {distance:.2f} times the median distance between "
        f"contributors: {words}."
    )
