"""Models compared case by case at every hospital, and over all of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from polyclinic.federation.metrics import Metric
from polyclinic.learning.measures.estimates import Estimate, pool
from polyclinic.learning.measures.names import MEASURES
from polyclinic.reporting.results import Results
from polyclinic.reporting.scores import latest

DIFFERENCE = MEASURES["score_difference"]


@dataclass(frozen=True)
class Pair:
    """Two models on the same cases.

    Attributes:
        model: Title of the one.
        other: Title of the one whose scores are subtracted.
        rows: Mean difference by hospital, the lowest first.
        pooled: Mean difference over the cases of all hospitals.
        verdict: What the interval says, in words.
    """

    model: str
    other: str
    rows: Mapping[str, Estimate]
    pooled: Estimate
    verdict: str


def find_pairs(results: Results) -> tuple[Pair, ...]:
    """List every pair of models that any hospital compared."""
    tested = latest(results, "test")
    titles = {arm.name: arm.title for arm in results.arms}
    names = list(titles)
    pairs = []
    for place, model in enumerate(names):
        for other in names[:place]:
            rows = _differences(tested, model, other)
            pooled = pool(DIFFERENCE, list(rows.values()))
            if pooled is not None:
                ordered = dict(sorted(rows.items(), key=lambda item: (item[1].value, item[0])))
                verdict = _tell(titles[model], titles[other], pooled)
                pairs.append(Pair(titles[model], titles[other], ordered, pooled, verdict))
    return tuple(pairs)


def _differences(
    tested: Mapping[tuple[str, str], Metric], model: str, other: str
) -> dict[str, Estimate]:
    """Return the differences model - other, whichever of the two a hospital scored first."""
    found = {}
    for (arm, site), metric in tested.items():
        if arm == model and other in metric.comparisons:
            found[site] = metric.comparisons[other]
        elif arm == other and model in metric.comparisons:
            found[site] = turned(metric.comparisons[model])
    return found


def turned(difference: Estimate) -> Estimate:
    """Return the difference of the same two models, the other way round."""
    low, high = difference.low, difference.high
    return difference.model_copy(
        update={
            "value": -difference.value,
            "low": None if high is None else -high,
            "high": None if low is None else -low,
            "total": -difference.total,
            "products": -difference.products,
        }
    )


def _tell(model: str, other: str, pooled: Estimate) -> str:
    """Say which model is better on these cases, as far as the interval says so."""
    if pooled.low is None or pooled.high is None:
        return "too few subjects for an interval"
    if pooled.descriptive:
        return "fewer than ten cases: descriptive"
    if pooled.low > 0:
        return f"{model} is better on these cases"
    if pooled.high < 0:
        return f"{other} is better on these cases"
    return "no clear difference on these cases"
