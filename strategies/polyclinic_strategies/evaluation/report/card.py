"""The card of a model: what it is, how it does at every hospital, and where it should not be used.

arms/MODEL/model-card.json, model-card.html

After Mitchell et al. 2019, https://arxiv.org/abs/1810.03993.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from polyclinic.config.tasks import KINDS
from polyclinic.errors import ModelInvalid
from polyclinic.federation.events import Word
from polyclinic.learning.measures.estimates import Estimate, Measures, overall, pool_all
from polyclinic.learning.measures.names import MEASURES
from polyclinic.reporting.formats import plural, show_score
from polyclinic.reporting.measured.standing import Standing, find_standings
from polyclinic.reporting.measured.tables import measures_of, tabulate
from polyclinic.reporting.page import make_environment
from polyclinic.reporting.results import Results, read_results
from polyclinic.system.durable import write_atomically
from polyclinic_strategies.evaluation.state import PART, EvaluatedModel, EvaluationState

TEMPLATES = Path(__file__).parent / "templates"
JSON, PAGE = "model-card.json", "model-card.html"
WIDE_GAP = 0.1  # of scores, above which the card warns


class ModelCard(BaseModel):
    """The content of model-card.json.

    Attributes:
        format: Of the file.
        model: What the model is, and how it was trained as far as known.
        task: Segmentation or classification.
        labels: Names of the classes.
        score_name: What the score is.
        evaluated: Time of the evaluation, ISO.
        run: Name of the evaluation.
        version: polyclinic's version that evaluated it.
        tolerance_mm: Of surface Dice; None of a classification.
        worst: Hospital with the lowest score; empty if none has one.
        gap: Difference of the best and the worst hospital's score; None of one hospital.
        scores: Score by hospital.
        measures: By hospital, class ("" over all) and measure; each with support and interval.
        federated: Over all hospitals, by class and measure.
        titles: What the measures are called.
        limits: What limits the use of the figures, a sentence each.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    model: EvaluatedModel
    task: Word
    labels: tuple[Word, ...]
    score_name: Word
    evaluated: Word
    run: Word
    version: Word
    tolerance_mm: float | None
    worst: Word = ""
    gap: float | None = None
    scores: Mapping[Word, Annotated[float, Field(ge=0, le=1)]]
    measures: Mapping[Word, Mapping[Word, Mapping[Word, Estimate]]]
    federated: Mapping[Word, Mapping[Word, Estimate]]
    titles: Mapping[Word, Word]
    limits: tuple[Word, ...]


def write_cards(run: Path) -> list[Path]:
    """Write the card of every model of an evaluation; return the pages.

    Args:
        run: Folder of the run.
    """
    results = read_results(run)
    state = results.part(PART, EvaluationState)
    pages = []
    for model in state.models if state is not None else ():
        folder = run / "arms" / model.name
        folder.mkdir(parents=True, exist_ok=True)
        card = make_card(results, state, model)
        write_atomically(folder / JSON, card.model_dump_json(indent=1))
        page = folder / PAGE
        write_atomically(page, render_card(card))
        pages.append(page)
    return pages


def read_card(path: Path) -> ModelCard:
    """Read a card.

    Raises:
        ModelInvalid: It is missing or damaged.
    """
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"{path}: is no model card ({type(error).__name__}).") from error


def make_card(results: Results, state: EvaluationState | None, model: EvaluatedModel) -> ModelCard:
    """Make the card of one model."""
    told = {site: metric.measures for site, metric in measures_of(results, model.name).items()}
    federated = pool_all(told.values())
    standing = next((each for each in find_standings(results) if each.arm.name == model.name), None)
    kind = KINDS.get(results.run.task)
    segments = kind is not None and kind.per_voxel
    tolerances = state.tolerance_mm if state else {}
    used = {name for measures in told.values() for table in measures.values() for name in table}
    return ModelCard(
        model=model,
        task=results.run.task,
        labels=results.run.labels,
        score_name=results.run.score_name,
        evaluated=datetime.now(UTC).isoformat(timespec="seconds"),
        run=results.run.name,
        version=results.run.versions.get("polyclinic", ""),
        tolerance_mm=tolerances.get(model.name) if segments else None,
        worst=standing.worst if standing else "",
        gap=standing.gap if standing else None,
        scores={
            metric.site: metric.score
            for metric in results.metrics
            if (metric.arm, metric.phase) == (model.name, "test") and metric.score is not None
        },
        measures=told,
        federated=federated,
        titles={name: each.title for name, each in MEASURES.items() if name in used},
        limits=tuple(find_limits(results, model, told, federated, standing)),
    )


def find_limits(
    results: Results,
    model: EvaluatedModel,
    told: Mapping[str, Measures],
    federated: Measures,
    standing: Standing | None,
) -> list[str]:
    """List what limits the use of a model and of its figures.

    Args:
        results: Of the evaluation.
        model: The model.
        told: Measures by hospital.
        federated: Those over all hospitals.
        standing: Of the model among the hospitals, if any scored it.
    """
    limits = ["Not a medical device. These figures describe the cases of these hospitals alone."]
    missing = sorted({each.name for each in results.hospitals} - set(told))
    if missing:
        limits.append(f"No measures from {', '.join(missing)}.")
    if standing is not None and standing.gap is not None and standing.gap >= WIDE_GAP:
        limits.append(
            f"The hospitals differ by {show_score(standing.gap)}: check the model on own cases "
            f"before use, above all where images are like those of {standing.worst}."
        )
    few = [site for site, table in told.items() if (one := overall(table)) and one.descriptive]
    if few:
        limits.append(f"Descriptive, of fewer than ten cases: {', '.join(sorted(few))}.")
    for label, table in federated.items():
        rare = table.get("dice") or table.get("auroc") or table.get("recall")
        if label and rare is not None and rare.descriptive:
            cases = plural(rare.positives or 0, "case")
            limits.append(f"{label}: descriptive, {cases} with it at all hospitals together.")
    kind, labels = KINDS.get(results.run.task), results.run.labels
    scored = kind.scored(labels) if kind else labels
    unmeasured = [label for label in scored if not _has(label, told)]
    if unmeasured:
        limits.append(f"Never measured, or held back: {', '.join(unmeasured)}.")
    if model.trained.hospitals is None:
        limits.append("How the model was trained is not known here: it may have seen these cases.")
    return limits


def render_card(card: ModelCard) -> str:
    """Make the page of a card; it loads nothing."""
    tables = tabulate(card.measures, card.labels)
    environment = make_environment(TEMPLATES)
    return environment.get_template("card.html.j2").render(card=card, tables=tables)


def _has(label: str, told: Mapping[str, Measures]) -> bool:
    return any(label in table for table in told.values())
