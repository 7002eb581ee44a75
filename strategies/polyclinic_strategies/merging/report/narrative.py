"""What the figures about merging say, in sentences that are computed from them; also when merging is worse."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from polyclinic.reporting.results import Arm, Results
from polyclinic.reporting.summary import (
    NO_CLEAR_DIFFERENCE,
    join_words,
    place,
    plural,
    show,
    show_difference,
    show_rounds,
    tell_recovery,
)
from polyclinic_strategies.merging.report.arrival_chart import Level, Step
from polyclinic_strategies.merging.report.standings import Figures, Restoration, Travel, all_metrics
from polyclinic_strategies.merging.report.timeline import show_span
from polyclinic_strategies.merging.report.timeline_events import Mark, Story

REFUSED = {
    "BaseMismatch": "it was not trained from the federation's starting model",
    "StaleBase": "it was trained from a starting model that is too old",
    "TensorsMissing": "parts of the network are missing in it",
    "TensorsExtra": "it has parts that the network has not",
    "ShapeRefused": "it is of another network",
    "TypeRefused": "its numbers are in another format",
    "NotFinite": "it holds values that are not numbers, as after a training that failed",
    "NormTooLarge": "it is far larger than the others' contributions",
    "ContributionTooLarge": "its file is too large",
    "UnknownSite": "the hospital is not one of the federation's",
    "SiteMismatch": "it was sent in another hospital's name",
    "TaskMismatch": "it was made for another task",
    "ContributionDamaged": "its file is damaged",
}


@dataclass(frozen=True)
class Notice:
    """Something about one hospital that a reader should know, in words; `reason` is the coordinator's own sentence."""

    site: str
    text: str
    reason: str


def tell_arrivals(story: Story) -> str:
    """Who contributed when, and what became of it."""
    arrivals = [mark.at for mark in story.marks if mark.kind == "contribution"]
    sites, everybody = story.sites("contribution"), len(story.presence)
    if arrivals:
        between = f"the first after {show_span(arrivals[0])}" + (
            f", the last after {show_span(arrivals[-1])}" if len(arrivals) > 1 else ""
        )
        words = [f"{len(sites)} of {plural(everybody, 'hospital')} contributed, {between}."]
    else:
        words = ["No hospital has contributed in this run."]
    if 0 < story.most_present < everybody:
        words.append(f"Never were all there at once: at most {story.most_present} of {everybody}.")
    if story.publications:
        made = len(story.publications[-1].sites)
        of = f"; the last is made of {plural(made, 'contribution')}" if made else ""
        words.append(
            f"{plural(len(story.publications), 'model')} {'was' if len(story.publications) == 1 else 'were'} published{of}."
        )
    refused = [mark for mark in story.marks if mark.kind == "contribution_refused"]
    if refused:
        words.append(
            f"{plural(len(refused), 'contribution')} {'was' if len(refused) == 1 else 'were'} refused, for the reasons below."
        )
    if story.restarts:
        times = "once" if len(story.restarts) == 1 else f"{len(story.restarts)} times"
        words.append(
            f"The coordinator was started again {times} and went on with what it had received."
        )
    return " ".join(words)


def tell_development(steps: Sequence[Step], levels: Sequence[Level]) -> str:
    """From the first complete model to the last, and where that leaves it among what it is compared with."""
    complete = [step for step in steps if step.complete]
    if len(complete) < 2:
        return (
            ""
            if not steps
            else "Too few models were scored by every hospital to compare them with each other."
        )
    first, last = complete[0], complete[-1]
    gain = round(last.mean, 3) - round(first.mean, 3)
    went = (
        "stayed about the same"
        if abs(gain) < NO_CLEAR_DIFFERENCE
        else "rose"
        if gain > 0
        else "fell"
    )
    words = [
        f"From model {first.number} to model {last.number} the mean {went}, from {show(first.mean)} to "
        f"{show(last.mean)} ({show_difference(gain)})."
    ]
    best = max(complete, key=lambda step: step.mean)
    if round(best.mean, 3) > round(last.mean, 3):
        words.append(f"The highest was model {best.number} with {show(best.mean)}.")
    lost = [
        site
        for site, score in last.scores.items()
        if site in first.scores and round(score, 3) < round(first.scores[site], 3)
    ]
    if lost:
        words.append(f"At {join_words(lost)} the last model scores lower than the first.")
    places = [
        f"{place(last.mean, level.value)} {level.title} ({show(level.value)})" for level in levels
    ]
    if places:
        words.append(f"The last model is {join_words(places)}.")
    return " ".join(words)


def tell_worth(figures: Figures, score_name: str) -> tuple[str, ...]:
    """What the published model is worth beside the best single hospital's, the references and the controls."""
    ours, best = figures.published, figures.best
    if ours.mean is None:
        return ("The merged model was not tested at the hospitals that the others were tested at.",)
    words = [f"{ours.title} reaches a mean {score_name} of {show(ours.mean)}."]
    if best is not None and best.mean is not None:
        words[0] = (
            f"{ours.title} reaches a mean {score_name} of {show(ours.mean)}, {place(ours.mean, best.mean)} the best single hospital's "
            f"model ({best.title}, {show(best.mean)}){tell_recovery(ours.recovery)}."
        )
    others = [
        f"{place(ours.mean, row.mean)} {row.title}"
        for row in figures.standings
        if row.role == "reference" and row.mean is not None
    ]
    if others:
        words.append(f"It is {join_words(others)}.")
    for row in figures.standings:
        if row.role == "control" and row.mean is not None:
            counts = (
                "so what counts is what the hospitals learned"
                if round(ours.mean - row.mean, 3) >= NO_CLEAR_DIFFERENCE
                else ("so the score says nothing about what the hospitals learned")
            )
            words.append(f"The {row.title} reaches {show(row.mean)}, {counts}.")
    rules = [
        row
        for row in figures.standings
        if row.role in ("published", "rule") and row.mean is not None
    ]
    top = max(rules, key=lambda row: row.mean or 0.0)
    if len(rules) > 1 and top.mean is not None and round(top.mean, 3) > round(ours.mean, 3):
        words.append(
            f"Of the rules, {top.title} has the highest score ({show(top.mean)}); it was not the one that was published."
        )
    return tuple(words)


def tell_restoration(found: Sequence[Restoration]) -> str:
    """What restoration adds to each, and whether merging is still ahead when everybody gets it."""
    words = [f"{show_difference(each.difference)} for {each.title}" for each in found]
    text = f"Restoration makes a difference of {join_words(words)}." if words else ""
    ours = next((each for each in found if each.role == "published"), None)
    single = max(
        (each for each in found if each.role == "single"),
        key=lambda each: each.restored,
        default=None,
    )
    if ours and single:
        text += (
            f" With restoration for both, merging ({show(ours.restored)}) is {place(ours.restored, single.restored)} "
            f"the best single hospital's model ({single.title}, {show(single.restored)})."
        )
    return text


def tell_travels(results: Results, travels: Sequence[Travel]) -> str:
    """What happens to a single hospital's model at other hospitals, and to the merged one."""
    sites = [hospital.name for hospital in results.hospitals]
    home: list[float] = []
    away: list[tuple[float, str, str]] = []
    for travel in travels:
        scored = [
            (score, site)
            for score, site in zip(travel.scores, sites, strict=True)
            if score is not None and travel.home
        ]
        home += [score for score, site in scored if site == travel.home]
        away += [(score, travel.home, site) for score, site in scored if site != travel.home]
    if not home or not away:
        return ""
    worst, whose, where = min(away)
    text = (
        f"On average a hospital's model scores {show(fmean(home))} at its own hospital and {show(fmean(score for score, *_ in away))} "
        f"at others; lowest is {show(worst)}, the model of {whose} at {where}."
    )
    merged = next((each for each in travels if not each.home), None)
    scores = (
        [
            (score, site)
            for score, site in zip(merged.scores, sites, strict=True)
            if score is not None
        ]
        if merged
        else []
    )
    return text + (
        f" {merged.title} scores lowest at {min(scores)[1]}, with {show(min(scores)[0])}."
        if merged and scores
        else ""
    )


def notices(marks: Sequence[Mark]) -> tuple[Notice, ...]:
    """Refusals, repetitions and withdrawals; the same again is counted."""
    grouped: dict[tuple[str, str, str, str], list[float]] = {}
    for mark in marks:
        if mark.kind != "contribution":
            grouped.setdefault((mark.site, mark.kind, mark.error, mark.reason), []).append(mark.at)
    found = []
    for (site, kind, error, reason), times in grouped.items():
        when = join_words([show_span(at) for at in times[:3]]) + (
            f" and {len(times) - 3} times more" if len(times) > 3 else ""
        )
        if kind == "contribution_refused":
            found.append(
                Notice(
                    site,
                    f"was refused after {when}: {REFUSED.get(error, 'the contribution does not meet the requirements')}.",
                    reason,
                )
            )
        elif kind == "withdrawn":
            found.append(
                Notice(
                    site,
                    f"was withdrawn after {when}. The model published then is the one that never had its contribution.",
                    reason,
                )
            )
        else:
            found.append(
                Notice(
                    site,
                    f"handed in a contribution again after {when} that was there already; it counts once.",
                    "",
                )
            )
    return tuple(found)


def missing(results: Results, arm: Arm) -> tuple[Notice, ...]:
    """Scores that a hospital did not give, with the reason."""
    compared = (
        results.comparison.entries
        if results.comparison and results.comparison.arm == arm.name
        else ()
    )
    titles = {arm.name: arm.title} | {entry.name: entry.title for entry in compared}
    numbers: dict[tuple[str, str], list[int]] = {}
    tests: dict[tuple[str, str], list[str]] = {}
    for m in all_metrics(results):
        if m.missing and m.phase == "validate" and m.arm == arm.name:
            numbers.setdefault((m.site, m.missing), []).append(m.round)
        elif m.missing and m.phase == "test" and m.arm in titles:
            tests.setdefault((m.site, m.missing), []).append(titles[m.arm])
    found = [
        Notice(site, f"did not score published model {show_rounds(which)}.", why)
        for (site, why), which in numbers.items()
    ]
    return tuple(
        found
        + [
            Notice(site, f"did not test {join_words(list(dict.fromkeys(t)))}.", why)
            for (site, why), t in tests.items()
        ]
    )
