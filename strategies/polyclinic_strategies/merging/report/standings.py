"""Test scores of merged models beside those of single hospitals, of controls and references.

Every mean of one table is over the same hospitals: those where every model of the table was tested.
Differences and the recovery are computed from the three decimals that are shown, so that a reader
who calculates finds the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from polyclinic.federation.metrics import Metric
from polyclinic.federation.run_state import OpponentState
from polyclinic.reporting.formats import subtract
from polyclinic.reporting.results import LOCAL, POOLED, Arm, Results

SINGLE, RESTORED, UNRESTORED = "single.", ".restored", ".unrestored"
BEST = "best single hospital"
Scores = Mapping[str, Mapping[str, float]]  # of every model, by hospital


@dataclass(frozen=True)
class Standing:
    """One model in the table of rules.

    Attributes:
        role: published, rule, single, singles (their mean), control or reference.
        difference: How far the mean is above the best single hospital's.
        recovery: Share of the gap between the best single hospital and pooled training.
    """

    name: str
    title: str
    role: str
    note: str
    mean: float | None
    difference: float | None
    recovery: float | None


@dataclass(frozen=True)
class Restoration:
    """One model's mean as it was merged or trained, and after its restoration."""

    name: str
    title: str
    role: str
    without: float
    restored: float
    note: str = ""

    @property
    def difference(self) -> float:
        """What restoration added."""
        return subtract(self.restored, self.without)


@dataclass(frozen=True)
class Travel:
    """One model at every hospital.

    Attributes:
        home: Hospital that trained it; empty for a merged model.
        scores: In the order of the run's hospitals.
        elsewhere: Mean over the other hospitals.
    """

    title: str
    home: str
    scores: tuple[float | None, ...]
    elsewhere: float | None


@dataclass(frozen=True)
class MergingFigures:
    """All that was measured of a merging arm on test images.

    Attributes:
        averaged: Hospitals that means are over.
        standings: The published model first.
        best: Best single hospital.
        pooled: Mean of the model trained on all images in one place.
        restored_at: Hospitals that means with restoration are over.
    """

    arm: Arm
    averaged: tuple[str, ...]
    standings: tuple[Standing, ...]
    best: Standing | None
    pooled: float | None
    restorations: tuple[Restoration, ...]
    restored_at: tuple[str, ...]
    travels: tuple[Travel, ...]

    @property
    def published(self) -> Standing:
        """The arm's own model, which is what hospitals got."""
        return self.standings[0]

    @property
    def undefined(self) -> str:
        """Why there is no recovery, in words; empty where there is one."""
        if self.best is None or self.best.mean is None:
            return "no single hospital's model was tested at every hospital"
        if self.pooled is None:
            return "no model trained on all images in one place was tested"
        if subtract(self.pooled, self.best.mean) <= 0:
            return (
                "the model trained on all images in one place is not better than the best single "
                "hospital's, so there is no gap to close"
            )
        return ""


def compare(results: Results, arm: Arm, note: str = "") -> MergingFigures:
    """Collect everything about one merging arm; `note` says how its published model was merged."""
    scores = test_scores(results)
    models = _list_models(results, arm, note)
    averaged = common(scores, (model.name for model in models))
    means = {model.name: mean(scores.get(model.name, {}), averaged) for model in models}
    pooled = means.get(POOLED)
    singles = {
        model.name: (model, score)
        for model in models
        if model.group == "single" and (score := means[model.name]) is not None
    }
    top = max(singles.values(), key=lambda pair: pair[1], default=None)
    best = _stand(*top, top[1], pooled) if top else None
    level = best.mean if best else None
    rows = [
        _stand(model, means[model.name], level, pooled)
        for model in models
        if model.group != "single" and (model.name in scores or model.name == arm.name)
    ]
    if best is not None:
        merged = sum(row.role in ("published", "rule") for row in rows)
        rows[merged:merged] = _stand_singles(best, [score for _, score in singles.values()], pooled)
    restorations, restored_at = _restore(models, scores)
    travels = _travel(results, models, scores)
    return MergingFigures(
        arm, averaged, tuple(rows), best, pooled, restorations, restored_at, travels
    )


def test_scores(results: Results) -> dict[str, dict[str, float]]:
    """Return every model's last test score at every hospital."""
    found: dict[str, dict[str, float]] = {}
    for m in sorted(all_metrics(results), key=lambda m: m.round):
        if m.phase == "test" and m.score is not None:
            found.setdefault(m.arm, {})[m.site] = m.score
    return found


def all_metrics(results: Results) -> tuple[Metric, ...]:
    """Return the figures of arms and of what a merging arm is compared with."""
    return results.metrics + results.compared


def common(scores: Scores, names: Iterable[str]) -> tuple[str, ...]:
    """List the hospitals at which every named model was tested that was tested anywhere."""
    tested = [scores[name] for name in names if name in scores]
    return tuple(site for site in tested[0] if all(site in row for row in tested)) if tested else ()


def mean(row: Mapping[str, float], sites: Sequence[str]) -> float | None:
    """Return the mean over hospitals; None where there are none or one of them is missing."""
    return fmean(row[site] for site in sites) if sites and set(sites) <= row.keys() else None


def recover(merged: float | None, best: float | None, pooled: float | None) -> float | None:
    """Return how far a model has come from the best single hospital (0) to pooled training (1).

    None where it is undefined.
    """
    if merged is None or best is None or pooled is None or subtract(pooled, best) <= 0:
        return None
    return subtract(merged, best) / subtract(pooled, best)


def reference_levels(results: Results, arm: Arm) -> dict[str, float]:
    """Return the mean last validation score of what the published models can be compared with.

    Only what was measured at every hospital that scored published models, on as many images:
        anything else is of another split.
    """
    validated: dict[str, dict[str, Metric]] = {}
    for m in sorted(all_metrics(results), key=lambda m: m.round):
        if m.phase == "validate" and m.score is not None:
            validated.setdefault(m.arm, {})[m.site] = m
    wanted = validated.pop(arm.name, {})
    comparable = {
        name: [found[site].score for site in wanted]
        for name, found in validated.items()
        if wanted
        and all(site in found and _same_images(m, found[site]) for site, m in wanted.items())
    }
    return {
        name: fmean(score for score in scores if score is not None)
        for name, scores in comparable.items()
    }


def _list_models(results: Results, arm: Arm, note: str) -> list[OpponentState]:
    """List the published model, what is compared with it, and the other arms.

    The arm of hospitals that train alone is left out: it is another model at each hospital.
    """
    comparison = results.comparison_of(arm)
    entries = comparison.entries if comparison else ()
    return [
        OpponentState(name=arm.name, title=arm.title, group="published", note=note),
        *(e for group in ("rule", "single", "control") for e in entries if e.group == group),
        *(
            OpponentState(name=other.name, title=other.title, group="reference", note=other.note)
            for other in results.arms
            if other.name not in (arm.name, LOCAL)
        ),
    ]


def _same_images(one: Metric, other: Metric) -> bool:
    """Tell whether nothing speaks against two figures being of the same images."""
    return None in (one.num_examples, other.num_examples) or one.num_examples == other.num_examples


def _stand(
    model: OpponentState, score: float | None, best: float | None, pooled: float | None
) -> Standing:
    difference = None if score is None or best is None else subtract(score, best)
    recovery = recover(score, best, pooled)
    return Standing(model.name, model.title, model.group, model.note, score, difference, recovery)


def _stand_singles(
    best: Standing, scores: Sequence[float], pooled: float | None
) -> tuple[Standing, ...]:
    """Return the best single hospital, and the mean over all of them if there are several."""
    if len(scores) == 1:
        return (best,)
    every = OpponentState(title=f"mean over {len(scores)} single hospitals", group="singles")
    return best, _stand(every, fmean(scores), best.mean, pooled)


def _restore(
    models: Sequence[OpponentState], scores: Scores
) -> tuple[tuple[Restoration, ...], tuple[str, ...]]:
    """Compare models without and with restoration, over the same hospitals.

    Of the single hospitals only the best one is kept: without, and with restoration.
    """
    pairs = {model.name: pair for model in models if (pair := _pair(model.name, scores))}
    sites = common(scores, (name for pair in pairs.values() for name in pair))
    if not sites:
        return (), ()
    found = []
    for model in models:
        if model.name in pairs:
            without, restored = (
                fmean(scores[n][site] for site in sites) for n in pairs[model.name]
            )
            found.append(Restoration(model.name, model.title, model.group, without, restored))
    singles = [each for each in found if each.role == "single"]
    if not singles:
        return tuple(found), sites
    before = max(singles, key=lambda each: each.without)
    after = max(singles, key=lambda each: each.restored)
    notes = {before: f"{BEST} without restoration", after: f"{BEST} with restoration"}
    if before == after:
        notes = {before: BEST}
    kept = [each for each in found if each.role != "single" or each in notes]
    return tuple(replace(each, note=notes.get(each, "")) for each in kept), sites


def _pair(name: str, scores: Scores) -> tuple[str, str] | None:
    """Name a model's figures without and with restoration.

    A run does one of them, and the comparison adds the other.
    """
    others = ((name, name + RESTORED), (name + UNRESTORED, name))
    return next(((a, b) for a, b in others if a in scores and b in scores), None)


def _travel(
    results: Results, models: Sequence[OpponentState], scores: Scores
) -> tuple[Travel, ...]:
    """Return single hospitals' models at every hospital, then the published one."""
    tested = [model for model in models if model.name in scores]
    singles = [model for model in tested if model.group == "single"]
    published = [model for model in tested if model.group == "published"]
    found = []
    for model in [*singles, *(published if singles else ())]:
        row = scores[model.name]
        home = model.name.removeprefix(SINGLE) if model.group == "single" else ""
        away = [score for site, score in row.items() if site != home]
        at_each = tuple(row.get(hospital.name) for hospital in results.hospitals)
        found.append(Travel(model.title, home, at_each, fmean(away) if away else None))
    return tuple(found)
