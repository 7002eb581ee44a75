"""`polyclinic-server refine`: a hospital's refined model from a ledger, and whose work is in it, without any hospital."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyclinic.errors import RunError
from polyclinic.learning.state_dict import save_state
from polyclinic.store.ledger import Ledger
from polyclinic_strategies.merging.offline import describe_base
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.refinement.refine import Recipe, Refinement
from polyclinic_strategies.refinement.refiner import Refiner

CHOICE = "refinement.json"  # beside a ledger: how its contributions are refined, and why so
NEAR = 1.0  # medians of the distances between contributors


def read_choice(path: Path) -> tuple[Recipe, Recipe]:
    """The recipe for newcomers and that for contributors, as a run chose them.

    Raises:
        RunError: There is none, or it is damaged.
    """
    try:
        kept = json.loads(path.read_text())
        return Recipe(**kept["left_out"][0]["recipe"]), Recipe(**kept["own"][0]["recipe"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RunError(
            f"{path}: no recipe has been chosen yet. `polyclinic-server run strategy=refinement` chooses one."
        ) from error


def open_refiner(ledger: Ledger) -> Refiner:
    """What refines a ledger's contributions, as the run did that chose the recipe."""
    kept = json.loads((ledger.folder / CHOICE).read_text())
    publisher = Publisher(
        ledger, int(kept.get("max_staleness", 0)), float(kept.get("staleness_discount", 0.5))
    )
    return Refiner(publisher, kept.get("normalization", ()))


def refine_offline(site: str, folder: Path, to: Path | None, *, left_out: bool) -> Refinement:
    """Recompute what a hospital's model is made of, and the model if it is wanted; the ledger stays as it is.

    Args:
        site: A hospital that contributed or described itself.
        folder: The ledger's.
        to: The safetensors file to write; `polyclinic-client predict` takes it. None: none.
        left_out: As if it had not contributed.

    Raises:
        UnknownName: Nobody of that name.
        RunError: No recipe has been chosen.
        LedgerError: There is no ledger.
    """
    recipe, own = read_choice(folder / CHOICE)
    with Ledger.open(folder, create=False) as ledger:
        refiner = open_refiner(ledger)
        contributed = site in refiner.contributors() and not left_out
        refinement = refiner.coefficients(site, own if contributed else recipe, leave_out=left_out)
        if to is not None:
            described = {
                **describe_base(ledger),
                "recipe": str(refinement.recipe),
                "arm": f"refinement-{site}",
            }
            save_state(refiner.model(refinement), to, {"polyclinic": json.dumps(described)})
    return refinement


def explain(refinement: Refinement, console: Console) -> None:
    """Which hospitals' vectors, with what weight, by which statistic, and how far the nearest is."""
    table = Table(title=Text(f"the model for {refinement.site}: {refinement.recipe}"))
    table.add_column("hospital")
    table.add_column("distance", justify="right")
    table.add_column("share of its vector", justify="right")
    for site in sorted(
        {*refinement.coefficients, *refinement.distances},
        key=lambda each: (-refinement.coefficients.get(each, 0.0), each),
    ):
        distance, share = refinement.distances.get(site), refinement.coefficients.get(site, 0.0)
        table.add_row(
            Text(site),
            "" if distance is None else f"{distance:.2f}",
            f"{100 * share:.0f} %" if share else "",
        )
    console.print(table)
    console.print(_say_nearest(refinement), markup=False)


def _say_nearest(refinement: Refinement) -> str:
    if refinement.fallback:
        return f"The uniform mean of all is used, because {refinement.fallback}."
    if not refinement.nearest:
        return "The uniform mean of all: no distance plays a part."
    distance = refinement.distances[refinement.nearest]
    if refinement.site in refinement.distances:
        return f"{refinement.site} contributed itself; distances are in medians of those between contributors."
    words = "near" if distance < NEAR else "not near, but within reach"
    return f"The nearest is {refinement.nearest}, {distance:.2f} medians of the distances between contributors away: {words}."
