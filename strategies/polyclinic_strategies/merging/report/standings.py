"""What a merging arm is worth: test scores of merged models beside those of single hospitals, of controls and references.

Every mean of one table is over the same hospitals: those at which every model of the table was tested. Differences and
the recovery are those of the three decimals which are shown, so that a reader who calculates finds the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from polyclinic.reporting.measurements import Metric
from polyclinic.reporting.results import Arm, Entry, Results

SINGLE, RESTORED, UNRESTORED = "single.", ".restored", ".unrestored"
BEST = "best single hospital"
Scores = Mapping[str, Mapping[str, float]]  # of every model, by hospital


@dataclass(frozen=True)
class Standing:
    """One model in the table of rules: its mean, how far above the best single hospital it is, and the recovery."""

    name: str
    title: str
    role: str  # published, rule, single, singles (their mean), control or reference
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
        return round(self.restored, 3) - round(self.without, 3)


@dataclass(frozen=True)
class Travel:
    """One model at every hospital; `home` is the hospital that trained it, empty for a merged one."""

    title: str
    home: str
    scores: tuple[float | None, ...]
    elsewhere: float | None


@dataclass(frozen=True)
class Figures:
    """All that was measured of a merging arm on test images; `best` and `pooled` are what the recovery is measured with."""

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
        """The arm's own, which is what hospitals got."""
        return self.standings[0]

    @property
    def undefined(self) -> str:
        """Why there is no recovery, in words; empty where there is one."""
        if self.best is None or self.best.mean is None:
            return "no single hospital's model was tested at every hospital"
        if self.pooled is None:
            return "no model trained on all images in one place was tested"
        if round(self.pooled, 3) <= round(self.best.mean, 3):
            return "the model trained on all images in one place is not better than the best single hospital's, so there is no gap to close"
        return ""


def compare(results: Results, arm: Arm, note: str = "") -> Figures:
    """Everything about one merging arm; `note` says how its published model was merged."""
    scores = test_scores(results)
    models = _models(results, arm, note)
    averaged = common(scores, (model.name for model in models))
    means = {model.name: mean(scores.get(model.name, {}), averaged) for model in models}
    pooled = means.get("pooled")
    singles = {
        model.name: score
        for model in models
        if model.group == "single" and (score := means[model.name]) is not None
    }
    top = max(singles, key=lambda name: singles[name], default=None)
    best = (
        next(
            (
                _stand(model, singles[top], singles[top], pooled)
                for model in models
                if model.name == top
            ),
            None,
        )
        if top
        else None
    )
    level = best.mean if best else None
    shown = [
        model
        for model in models
        if model.group != "single" and (model.name in scores or model.name == arm.name)
    ]
    rows = [_stand(model, means[model.name], level, pooled) for model in shown]
    if best is not None:
        place = sum(row.role in ("published", "rule") for row in rows)
        every = Entry("", f"mean over {len(singles)} single hospitals", "singles")
        rows[place:place] = [best, _stand(every, fmean(singles.values()), level, pooled)][
            : len(singles)
        ]
    restorations, restored_at = _restore(models, scores)
    return Figures(
        arm,
        averaged,
        tuple(rows),
        best,
        pooled,
        restorations,
        restored_at,
        _travels(results, models, scores),
    )


def _models(results: Results, arm: Arm, note: str) -> list[Entry]:
    """The published model, what is compared with it, and the other arms except local, which is another model at each hospital."""
    entries = (
        results.comparison.entries
        if results.comparison and results.comparison.arm == arm.name
        else ()
    )
    found = [Entry(arm.name, arm.title, "published", note)]
    found += [
        entry
        for group in ("rule", "single", "control")
        for entry in entries
        if entry.group == group
    ]
    return found + [
        Entry(a.name, a.title, "reference", a.note)
        for a in results.arms
        if a.name not in (arm.name, "local")
    ]


def test_scores(results: Results) -> dict[str, dict[str, float]]:
    """Every model's last test score at every hospital."""
    found: dict[str, dict[str, float]] = {}
    for m in sorted(all_metrics(results), key=lambda m: m.round):
        if m.phase == "test" and m.score is not None:
            found.setdefault(m.arm, {})[m.site] = m.score
    return found


def all_metrics(results: Results) -> tuple[Metric, ...]:
    """Those of arms and those of what a merging arm is compared with."""
    return results.metrics + (results.comparison.metrics if results.comparison else ())


def common(scores: Scores, names: Iterable[str]) -> tuple[str, ...]:
    """Hospitals at which every one of the named models was tested that was tested anywhere."""
    tested = [scores[name] for name in names if name in scores]
    return tuple(site for site in tested[0] if all(site in row for row in tested)) if tested else ()


def mean(row: Mapping[str, float], sites: Sequence[str]) -> float | None:
    """The mean over these hospitals, or None where there are none or one of them is missing."""
    return (
        fmean(row[site] for site in sites) if sites and all(site in row for site in sites) else None
    )


def recover(merged: float | None, best: float | None, pooled: float | None) -> float | None:
    """The share of the way from the best single hospital (0) to pooled training (1) that a model has come; None if undefined."""
    if merged is None or best is None or pooled is None or round(pooled, 3) <= round(best, 3):
        return None
    return (round(merged, 3) - round(best, 3)) / (round(pooled, 3) - round(best, 3))


def reference_levels(results: Results, arm: Arm) -> dict[str, float]:
    """Mean last validation score of what the published models can be compared with, by name.

    Only where it was measured at every hospital that scored published models, on as many images: else it is another split.
    """
    validated: dict[str, dict[str, Metric]] = {}
    for m in sorted(all_metrics(results), key=lambda m: m.round):
        if m.phase == "validate" and m.score is not None:
            validated.setdefault(m.arm, {})[m.site] = m
    wanted = validated.pop(arm.name, {})
    levels = {}
    for name, found in validated.items():
        if wanted and all(
            site in found and _same_images(m, found[site]) for site, m in wanted.items()
        ):
            levels[name] = fmean(
                score for site in wanted if (score := found[site].score) is not None
            )
    return levels


def _same_images(one: Metric, other: Metric) -> bool:
    """Whether nothing speaks against two figures being of the same images."""
    return (
        one.num_examples is None
        or other.num_examples is None
        or one.num_examples == other.num_examples
    )


def _stand(model: Entry, score: float | None, best: float | None, pooled: float | None) -> Standing:
    difference = None if score is None or best is None else round(score, 3) - round(best, 3)
    return Standing(
        model.name,
        model.title,
        model.group,
        model.note,
        score,
        difference,
        recover(score, best, pooled),
    )


def _restore(
    models: Sequence[Entry], scores: Scores
) -> tuple[tuple[Restoration, ...], tuple[str, ...]]:
    """Merged models, the best single hospital without and with restoration, and controls, over the same hospitals."""
    pairs = {model.name: pair for model in models if (pair := _pair(model.name, scores))}
    sites = common(scores, (name for pair in pairs.values() for name in pair))
    if not sites:
        return (), ()
    found = []
    for model in (model for model in models if model.name in pairs):
        without, restored = (
            fmean(scores[name][site] for site in sites) for name in pairs[model.name]
        )
        found.append(Restoration(model.name, model.title, model.group, without, restored))
    singles = [each for each in found if each.role == "single"]
    if not singles:
        return tuple(found), sites
    before, after = (
        max(singles, key=lambda each: each.without),
        max(singles, key=lambda each: each.restored),
    )
    words = (
        {before: f"{BEST} without restoration", after: f"{BEST} with restoration"}
        if before != after
        else {before: BEST}
    )
    return tuple(
        replace(each, note=words.get(each, ""))
        for each in found
        if each.role != "single" or each in words
    ), sites


def _pair(name: str, scores: Scores) -> tuple[str, str] | None:
    """Names of a model's figures without and with restoration; a run does one of them, and the comparison adds the other."""
    others = ((name, name + RESTORED), (name + UNRESTORED, name))
    return next(((a, b) for a, b in others if a in scores and b in scores), None)


def _travels(results: Results, models: Sequence[Entry], scores: Scores) -> tuple[Travel, ...]:
    """Single hospitals' models at every hospital, then the published one."""
    singles = [model for model in models if model.group == "single" and model.name in scores]
    found = []
    for model in [
        *singles,
        *(
            model
            for model in models
            if model.group == "published" and model.name in scores and singles
        ),
    ]:
        row = scores[model.name]
        home = model.name.removeprefix(SINGLE) if model.group == "single" else ""
        away = [score for site, score in row.items() if site != home]
        found.append(
            Travel(
                model.title,
                home,
                tuple(row.get(h.name) for h in results.hospitals),
                fmean(away) if away else None,
            )
        )
    return tuple(found)
