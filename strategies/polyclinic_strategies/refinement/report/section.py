"""The part of a report about refinement; it leads the page.

It shows what hospitals that joined later got, which hospitals are alike, and what other hospitals
had to send or receive. Hospitals that took part and hospitals that joined later with a description
alone are never averaged together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyclinic.config.tasks import MEANINGS
from polyclinic.reporting.dot_chart import DotChart, draw_dots
from polyclinic.reporting.formats import compare_scores, join_words, show_difference, show_score
from polyclinic.reporting.heat_map import draw_heat_map
from polyclinic.reporting.narrative import NO_TEST_YET, ONE_RUN
from polyclinic.reporting.pictures import IMAGE, TRUTH, Picture, read_legend, read_pictures
from polyclinic.reporting.results import LOCAL, POOLED, Results
from polyclinic.reporting.scores import score_table
from polyclinic.reporting.section import Pointer, Section
from polyclinic_strategies.refinement.events import WITHDRAWAL, Refined
from polyclinic_strategies.refinement.report.likeness import find_likenesses
from polyclinic_strategies.refinement.report.membership_events import (
    find_membership_events,
    find_models,
)
from polyclinic_strategies.refinement.report.narrative import (
    UNIFORM,
    tell_choice,
    tell_decision,
    tell_gains,
    tell_membership,
)
from polyclinic_strategies.refinement.report.state import (
    CENTRE,
    REFINED,
    DecisionState,
    RefinementState,
    TriedRecipe,
    read_state,
)
from polyclinic_strategies.refinement.report.table import (
    AVERAGED,
    BASELINES,
    HEADS,
    JOINED_LATER,
    TOOK_PART,
    advise,
    find_baseline,
    find_columns,
    find_gains,
    leading,
    make_groups,
    tell_result,
    terminal_table,
)

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_TRIALS = 6
SHAPES = {AVERAGED: "square", CENTRE: "diamond", REFINED: "circle"}
PROCEDURE = (
    "For refinement every hospital fine-tunes a common base once, at a time of its own. It sends "
    "how its model differs from the base, and a few numbers that describe its images. A refined "
    "model is the base plus a weighted sum of these differences; hospitals with similar images "
    "get more weight. A hospital that joins later describes its unlabelled images and trains "
    "nothing.",
)
PARTICIPATION = (
    Pointer(
        "Contributing and refining have no rounds. The table above shows which hospitals joined, "
        "changed or left, and when.",
        "membership",
    ),
)


@dataclass(frozen=True)
class Portrait:
    """Pictures of one hospital that lead the page, their captions, and why it is this hospital."""

    site: str
    pictures: tuple[tuple[Picture, str], ...]
    says: str


@dataclass(frozen=True)
class RankedRecipe:
    """A tried recipe.

    Attributes:
        place: Its rank; recipes whose scores look the same share one.
        trial: Recipe and score.
        taken: Whether it was chosen.
    """

    place: int
    trial: TriedRecipe
    taken: bool


def make_section(results: Results) -> Section | None:
    """Make the section; None where a run did not refine.

    Raises:
        RunError: The part of run.json about refinement is damaged.
    """
    state = read_state(results)
    if state is None:
        return None
    return Section(
        template=TEMPLATES / "refinement.html.j2",
        values=describe(results, state),
        css=TEMPLATES / "refinement.css",
        leads=True,
        tables=(terminal_table(results),),
        participation=PARTICIPATION,
        procedure=PROCEDURE,
    )


def describe(results: Results, state: RefinementState) -> dict[str, object]:
    """Collect what the template shows."""
    happened, models = find_membership_events(results.events), find_models(results.events)
    gone = [
        each.site
        for each in happened
        if each.why == WITHDRAWAL and each.site not in state.contributors
    ]
    columns, baseline = find_columns(results), find_baseline(results)
    pictures = read_pictures(results)
    portrait = choose_portrait(results, baseline, pictures)
    trials, more_trials = _rank_trials(state)
    return {
        "lead": tell_result(results, baseline),
        "support": _tell_support(results, baseline, models),
        "tested": score_table(results, None).source == "test",
        "meaning": MEANINGS.get(results.run.score_name, ""),
        "colours": read_legend(results) if portrait else {},
        "columns": columns,
        "groups": make_groups(results, columns, baseline, gone),
        "baseline": BASELINES.get(baseline, ""),
        "portrait": portrait,
        "dots": None if portrait else _draw_dots(results),
        "heat": draw_heat_map(state.sites, state.distances, results.later),
        "statistic": state.statistic,
        "likenesses": find_likenesses(results, state, models),
        "membership": happened,
        "happened": tell_membership(happened),
        "trials": trials,
        "more_trials": more_trials,
        "own_trials": _rank(state.choice.own, state.choice.contributors),
        "own_recipe": _recipe_taken(state.choice.own, state.choice.contributors),
        "own_chosen": tell_decision(own) if (own := state.choice.contributors) else "",
        "advice": advise(results),
        "chosen": tell_choice(state, results.run.score_name),
    }


def choose_portrait(
    results: Results, baseline: str, pictures: Mapping[str, Sequence[Picture]]
) -> Portrait | None:
    """Choose the hospital with the median gain, the lower one of two in the middle.

    Neither the best nor the worst is picked.
    """
    captions = {
        IMAGE: "image",
        TRUTH: "reference outlines",
        baseline: BASELINES.get(baseline, ""),
        REFINED: "its refined model",
    }
    gains = find_gains(results, baseline, leading(results))
    named = {site: {each.name: each for each in found} for site, found in pictures.items()}
    shown = sorted(
        (gain for gain in gains if captions.keys() <= named.get(gain.site, {}).keys()),
        key=lambda gain: gain.difference,
    )
    if not shown:
        return None
    chosen = shown[(len(shown) - 1) // 2]
    which = "that joined later" if chosen.site in results.later else "that took part"
    some = " and have pictures" if len(shown) < len(gains) else ""
    why = f"the only hospital {which}{some}"
    if len(shown) > 1:
        why = f"of the {len(shown)} hospitals {which}{some}, it has the median gain"
    return Portrait(
        chosen.site,
        tuple((named[chosen.site][name], caption) for name, caption in captions.items()),
        f"{chosen.site}: {why} ({show_difference(chosen.difference)}).",
    )


def _tell_support(results: Results, baseline: str, models: Mapping[str, Refined]) -> str:
    """Put the result in proportion: who gained and who did not, and how little one run proves."""
    table = score_table(results, None)
    words = [
        tell_gains(find_gains(results, baseline, results.later), BASELINES.get(baseline, "")),
        _tell_columns(results, baseline),
        _tell_trained(results, baseline),
    ]
    unscored = [site for site in results.later if table.score(site, REFINED) is None]
    if unscored:
        words.append(f"There is no score yet with refined models at {join_words(unscored)}.")
    far = [site for site in results.later if site in models and models[site].fallback]
    if far:
        words.append(
            f"No hospital is near enough to {join_words(far)}: the average of all is used."
        )
    words += [NO_TEST_YET] if table.source == "validate" else []
    return " ".join(filter(None, [*words, ONE_RUN]))


def _tell_columns(results: Results, baseline: str) -> str:
    """Say where the mean with refined models is beside the other columns'."""
    table = score_table(results, None, leading(results))
    ours = table.mean_score(REFINED)
    others = {CENTRE: BASELINES[CENTRE], POOLED: "one model trained on all images in one place"}
    places = [
        f"{compare_scores(ours, mean)} that of {title} ({show_score(mean)})"
        for name, title in others.items()
        if name != baseline and ours is not None and (mean := table.mean_score(name)) is not None
    ]
    return f"The mean with refined models is {join_words(places)}." if places else ""


def _tell_trained(results: Results, baseline: str) -> str:
    """Say what the hospitals that took part got, if the page is about the others."""
    table = score_table(results, None, results.trained)
    ours = table.mean_score(REFINED)
    if leading(results) != results.later or ours is None:
        return ""
    titles = {LOCAL: "alone", baseline: f"with {BASELINES.get(baseline)}"}
    beside = [
        f"{show_score(mean)} {title}"
        for name, title in titles.items()
        if (mean := table.mean_score(name)) is not None
    ]
    against = f", against {join_words(beside)}" if beside else ""
    return f"At the hospitals that took part, refined models reach {show_score(ours)}{against}."


def _draw_dots(results: Results) -> DotChart | None:
    scored = {arm.name for _, arm in find_columns(results)}
    models = {name: (shape, HEADS[name]) for name, shape in SHAPES.items() if name in scored}
    table = score_table(results, None)
    groups = [
        (heading, [(site, [table.score(site, name) for name in models]) for site in sites])
        for heading, sites in ((TOOK_PART, results.trained), (JOINED_LATER, results.later))
    ]
    return draw_dots(groups, list(models.values()))


def _rank_trials(
    state: RefinementState,
) -> tuple[tuple[RankedRecipe, ...], tuple[RankedRecipe, ...]]:
    """Return the recipes that are shown, and those that are folded away."""
    ranked = _rank(state.choice.left_out, state.choice.newcomers)
    shown = tuple(
        each
        for number, each in enumerate(ranked, start=1)
        if number <= SHOWN_TRIALS or each.taken or each.trial.recipe == UNIFORM
    )
    return shown, tuple(each for each in ranked if each not in shown)


def _rank(
    trials: Sequence[TriedRecipe], decision: DecisionState | None
) -> tuple[RankedRecipe, ...]:
    means = [None if trial.mean is None else show_score(trial.mean) for trial in trials]
    taken = _recipe_taken(trials, decision)
    return tuple(
        RankedRecipe(means.index(mean) + 1, trial, trial.recipe == taken)
        for mean, trial in zip(means, trials, strict=True)
    )


def _recipe_taken(trials: Sequence[TriedRecipe], decision: DecisionState | None) -> str:
    """Return the recipe that was taken; early versions took the first."""
    if decision is not None:
        return decision.recipe
    return trials[0].recipe if trials else ""
