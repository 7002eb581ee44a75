"""Every measure of one strategy's model, by class and hospital; the worst hospital comes first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyclinic.federation.metrics import Metric
from polyclinic.learning.measures.estimates import Estimate, Measures, pool_all
from polyclinic.learning.measures.names import MEASURES, OVERALL, SCORES, Measure
from polyclinic.reporting.results import Arm, Results, unseen
from polyclinic.reporting.scores import latest, source_of

LEADING = (*SCORES, "dice", "auroc", "recall", "mae")  # what hospitals go by
ALL_CLASSES = "all classes"


@dataclass(frozen=True)
class MeasureTable:
    """Measures of one class.

    Attributes:
        label: The class; `ALL_CLASSES` over all of them.
        measures: Columns.
        rows: Hospital to measure to figure, the worst hospital first.
        pooled: The federated figures.
    """

    label: str
    measures: tuple[Measure, ...]
    rows: Mapping[str, Mapping[str, Estimate]]
    pooled: Mapping[str, Estimate]


@dataclass(frozen=True)
class ArmMeasures:
    """All measures of one strategy's model."""

    arm: Arm
    tables: tuple[MeasureTable, ...]


def measures_of(results: Results, arm: str) -> dict[str, Metric]:
    """Return the last figures of an arm by hospital, of hospitals that told measures."""
    metrics = latest(results, source_of(results))
    return {
        site: metric for (name, site), metric in metrics.items() if name == arm and metric.measures
    }


def measure_tables(results: Results) -> tuple[ArmMeasures, ...]:
    """Make the tables of every strategy whose hospitals told measures."""
    found = []
    for arm in results.arms:
        told = {site: metric.measures for site, metric in measures_of(results, arm.name).items()}
        if told:
            tables = tabulate(told, results.run.labels)
            found.append(ArmMeasures(arm, tables))
    return tuple(found)


def tabulate(told: Mapping[str, Measures], labels: Sequence[str]) -> tuple[MeasureTable, ...]:
    """Make a table for each class.

    Args:
        told: Measures by hospital.
        labels: The classes in their order; others come after them.
    """
    pooled = pool_all(told.values())
    ordered = [label for label in (OVERALL, *labels) if label in pooled]
    tables = []
    for label in [*ordered, *unseen(pooled, ordered)]:
        rows = {site: table[label] for site, table in told.items() if label in table}
        leading = next((name for name in LEADING if name in pooled[label]), None)
        order = sorted(rows, key=lambda site: (_lead(rows[site], leading), site))
        tables.append(
            MeasureTable(
                label or ALL_CLASSES,
                tuple(each for name, each in MEASURES.items() if name in pooled[label]),
                {site: rows[site] for site in order},
                pooled[label],
            )
        )
    return tuple(tables)


def _lead(row: Mapping[str, Estimate], leading: str | None) -> float:
    """Return the figure that hospitals are ordered by; those without it come last."""
    found = row.get(leading) if leading else None
    if leading is None or found is None:
        return float("inf")
    return -found.value if MEASURES[leading].better == "low" else found.value
