"""The part of a report that leads where a run refined: what hospitals that joined later got, who is like whom, and who noticed.

Hospitals that took part and hospitals that joined later with a description alone are never averaged together.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from polyclinic.reporting.dot_chart import DotChart, draw_dots
from polyclinic.reporting.heat_map import HeatMap, draw_heat_map
from polyclinic.reporting.results import Arm, Results, score_table
from polyclinic.reporting.summary import (
    NO_TEST_YET,
    ONE_RUN,
    join_words,
    place,
    show,
    show_difference,
)
from polyclinic_strategies.merging.report.timeline_events import Event
from polyclinic_strategies.refinement.report.membership_events import (
    WITHDRAWAL,
    Model,
    Occasion,
    find_models,
    find_occasions,
)
from polyclinic_strategies.refinement.report.narrative import (
    tell_choice,
    tell_distance,
    tell_gains,
    tell_occasions,
    tell_shares,
)
from polyclinic_strategies.refinement.report.record import CENTRE, REFINED, Record, Trial
from polyclinic_strategies.refinement.report.table import (
    BASELINES,
    HEADS,
    JOINED_LATER,
    TOOK_PART,
    Group,
    find_baseline,
    find_columns,
    find_gains,
    leading,
    make_groups,
    tell_result,
)

SHOWN_TRIALS = 6
SHAPES = {"fedavg": "square", CENTRE: "diamond", REFINED: "circle"}


@dataclass(frozen=True)
class Portrait:
    """Whose pictures lead the page, which of them, and why this hospital."""

    site: str
    names: tuple[str, ...]
    says: str


@dataclass(frozen=True)
class Likeness:
    """What a hospital's model is made of, and how far the most similar hospital is; `since` is what it would be made of now."""

    site: str
    made: str
    nearest: str
    distance: str
    reason: str
    since: str


@dataclass(frozen=True)
class Ranked:
    """A tried recipe with its place, 1 for the one that was taken."""

    place: int
    trial: Trial


@dataclass(frozen=True)
class Section:
    """Everything about refinement on the page."""

    lead: str
    support: str
    columns: tuple[tuple[str, Arm], ...]
    groups: tuple[Group, ...]
    baseline: str
    portrait: Portrait | None
    dots: DotChart | None
    heat: HeatMap | None
    statistic: str
    likenesses: tuple[tuple[str, tuple[Likeness, ...]], ...]
    occasions: tuple[Occasion, ...]
    happened: str
    trials: tuple[Ranked, ...]
    more_trials: tuple[Ranked, ...]
    own_trials: tuple[Ranked, ...]
    chosen: str


def describe_refinement(
    results: Results, events: Sequence[Event], pictured: Mapping[str, Collection[str]]
) -> Section | None:
    """All of it; None where a run did not refine. `pictured` are the names of each hospital's pictures."""
    record = results.refinement
    if record is None:
        return None
    occasions, models = find_occasions(events), find_models(events)
    gone = [
        each.site
        for each in occasions
        if each.why == WITHDRAWAL and each.site not in record.contributors
    ]
    columns, baseline = find_columns(results), find_baseline(results)
    groups = make_groups(results, columns, baseline, gone)
    portrait = choose_portrait(results, baseline, pictured)
    ranked = tuple(Ranked(number, trial) for number, trial in enumerate(record.left_out, start=1))
    first = tuple(
        each for each in ranked if each.place <= SHOWN_TRIALS or each.trial.recipe == "uniform mean"
    )
    return Section(
        lead=tell_result(results, baseline),
        support=_support(results, baseline, models),
        columns=columns,
        groups=groups,
        baseline=BASELINES.get(baseline, ""),
        portrait=portrait,
        dots=None if portrait else _dots(results),
        heat=draw_heat_map(record.sites, record.distances, results.later),
        statistic=record.statistic,
        likenesses=_likenesses(results, record, models),
        occasions=occasions,
        happened=tell_occasions(occasions),
        trials=first,
        more_trials=tuple(each for each in ranked if each not in first),
        own_trials=tuple(Ranked(number, trial) for number, trial in enumerate(record.own, start=1)),
        chosen=tell_choice(record, results.score_name),
    )


def choose_portrait(
    results: Results, baseline: str, pictured: Mapping[str, Collection[str]]
) -> Portrait | None:
    """The hospital with the median gain, the lower one of two in the middle: neither the best nor the worst is picked."""
    wanted = ("image", "truth", baseline, REFINED)
    gains = find_gains(results, baseline, leading(results))
    shown = sorted(
        (gain for gain in gains if set(wanted) <= set(pictured.get(gain.site, ()))),
        key=lambda gain: gain.difference,
    )
    if not shown:
        return None
    chosen = shown[(len(shown) - 1) // 2]
    which = "that joined later" if chosen.site in results.later else "that took part"
    among = f"the {len(shown)} hospitals {which}" if len(shown) > 1 else f"the one hospital {which}"
    some = " and have pictures" if len(shown) < len(gains) else ""
    why = (
        f"of {among}{some} it is the one with the median gain"
        if len(shown) > 1
        else f"{among}{some}"
    )
    return Portrait(
        chosen.site, wanted, f"{chosen.site}: {why} ({show_difference(chosen.difference)})."
    )


def _support(results: Results, baseline: str, models: Mapping[str, Model]) -> str:
    """The result in proportion: who gained and who did not, the other columns, and how little one run proves."""
    table = score_table(results, None)
    words = [
        tell_gains(find_gains(results, baseline, results.later), BASELINES.get(baseline, "")),
        *_place_means(results, baseline),
    ]
    unscored = [
        site
        for site in results.later
        if REFINED not in table.rows[site] or table.rows[site][REFINED].score is None
    ]
    if unscored:
        words.append(
            f"{join_words(unscored)} joined later; there is no score of {'its model' if len(unscored) == 1 else 'their models'}."
        )
    far = [site for site in results.later if site in models and models[site].fallback]
    if far:
        words.append(
            f"For {join_words(far)} nobody was near enough: the model there is the average of all."
        )
    words += [NO_TEST_YET] if table.source == "validate" else []
    return " ".join(filter(None, [*words, ONE_RUN]))


def _place_means(results: Results, baseline: str) -> list[str]:
    """Where the mean with refined models is beside the other columns', and what the hospitals that took part got."""
    words = []
    mean = {
        name: cell.score
        for name, cell in score_table(results, None, leading(results)).mean.items()
        if cell.score is not None
    }
    others = {
        **({CENTRE: BASELINES[CENTRE]} if baseline != CENTRE else {}),
        "pooled": "one model trained on all images in one place",
    }
    places = [
        f"{place(mean[REFINED], mean[name])} that of {title} ({show(mean[name])})"
        for name, title in others.items()
        if {name, REFINED} <= set(mean)
    ]
    if places:
        words.append(f"The mean with refined models is {join_words(places)}.")
    trained = {
        name: cell.score
        for name, cell in score_table(results, None, results.trained).mean.items()
        if cell.score is not None
    }
    if leading(results) == results.later and REFINED in trained:
        titles = {"local": "alone", baseline: f"with {BASELINES.get(baseline)}"}
        beside = [
            f"{show(trained[name])} {title}" for name, title in titles.items() if name in trained
        ]
        against = f", against {join_words(beside)}" if beside else ""
        words.append(
            f"At the hospitals that took part, refined models reach {show(trained[REFINED])}{against}."
        )
    return words


def _dots(results: Results) -> DotChart | None:
    scored = {arm.name for _, arm in find_columns(results)}
    models = {name: (shape, HEADS[name]) for name, shape in SHAPES.items() if name in scored}
    rows = score_table(results, None).rows
    groups = [
        (heading, [(site, [rows[site][name].score for name in models]) for site in sites])
        for heading, sites in ((TOOK_PART, results.trained), (JOINED_LATER, results.later))
    ]
    return draw_dots(groups, list(models.values()))


def _likenesses(
    results: Results, record: Record, models: Mapping[str, Model]
) -> tuple[tuple[str, tuple[Likeness, ...]], ...]:
    """Those that joined later first: they are what it is about."""
    groups = ((JOINED_LATER, results.later), (TOOK_PART, record.contributors))
    return tuple(
        (
            title,
            tuple(_liken(site, record, models.get(site), title == JOINED_LATER) for site in sites),
        )
        for title, sites in groups
        if sites
    )


def _liken(site: str, record: Record, model: Model | None, later: bool) -> Likeness:
    now = record.coefficients.get(site, {})
    near = {
        other: d
        for other in record.contributors
        if other != site and (d := record.distance(site, other)) is not None
    }
    nearest = min(near, key=lambda other: near[other], default="")
    if model is None:
        made = tell_shares(now) if later and now else "it has no model yet"
        model = Model(site, "", {}, fallback=record.fallback.get(site, "") if later else "")
    else:
        made = tell_shares(model.shares)
    if later and model.nearest:
        nearest, distance = model.nearest, model.distance
    else:
        distance = near.get(nearest)
    since = tell_shares(now) if later and now and model.shares and tell_shares(now) != made else ""
    return Likeness(
        site, made, nearest, tell_distance(distance, model.fallback), model.fallback, since
    )
