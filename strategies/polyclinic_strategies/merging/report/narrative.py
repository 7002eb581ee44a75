"""What the figures about merging say, computed from them, also when merging is worse."""

from collections.abc import Sequence
from statistics import fmean

from polyclinic.reporting.formats import (
    compare_scores,
    join_words,
    plural,
    show_difference,
    show_percent,
    show_score,
    show_span,
    subtract,
    were,
)
from polyclinic.reporting.narrative import NO_CLEAR_DIFFERENCE, tell_verdict
from polyclinic.reporting.results import Results
from polyclinic_strategies.merging.report.arrival_chart import Level, Step
from polyclinic_strategies.merging.report.standings import (
    MergingFigures,
    Restoration,
    Travel,
)
from polyclinic_strategies.merging.report.timeline_events import Story

SUBJECT = "Merging the hospitals' models"


def tell_result(figures: MergingFigures) -> str:
    """Compare with the best single hospital's model; empty if either was not tested."""
    ours, best = figures.published, figures.best
    if ours.mean is None or best is None or best.mean is None or ours.difference is None:
        return ""
    over = f"averaged over {plural(len(figures.averaged), 'hospital')}"
    return (
        f"{SUBJECT} {tell_verdict(ours.difference)}: {over}, {ours.title} scores "
        f"{show_score(ours.mean)}. The best single hospital's model ({best.title}), used "
        f"everywhere, scores {show_score(best.mean)}."
    )


def tell_place(figures: MergingFigures) -> str:
    """Say where the published model is beside the best single hospital's.

    Empty if it was not tested.
    """
    ours, best = figures.published, figures.best
    if ours.mean is None or best is None or best.mean is None:
        return ""
    place = compare_scores(ours.mean, best.mean)
    return (
        f"{ours.title} is {place} the best single hospital's model ({best.title}, used at every "
        f"hospital).{tell_recovery(ours.recovery)}"
    )


def tell_recovery(recovery: float | None) -> str:
    """Say what a recovery means, after the sentence with the comparison; nothing if undefined."""
    if recovery is None or recovery <= 0:
        return ""
    if recovery >= 1:
        return " It is at least as good as the model trained on all images in one place."
    return (
        f" This closes {show_percent(recovery)} of the gap between that and the model trained on "
        "all images in one place."
    )


def tell_procedure(heirs: int) -> str:
    """Say how hospitals contribute, where some of them started from published models."""
    said = (
        "Every hospital trains by itself, at a time of its own, and sends its contribution once. "
        "The coordinator merges all contributions again whenever one arrives. "
    )
    if not heirs:
        return said + "No hospital waits for another."
    return said + (
        f"{plural(heirs, 'hospital')} started from a model that was published before, "
        "and built on what others had learned."
    )


def tell_arrivals(story: Story) -> str:
    """Say who contributed when, and what became of it."""
    arrivals = [mark.at for mark in story.marks if mark.kind == "contribution"]
    refused = sum(mark.kind == "contribution_refused" for mark in story.marks)
    everybody, models = len(story.presence), len(story.publications)
    words = ["No hospital has contributed in this run."]
    if arrivals:
        last = f", the last after {show_span(arrivals[-1])}" if len(arrivals) > 1 else ""
        who = f"{len(story.sites('contribution'))} of {plural(everybody, 'hospital')}"
        words = [f"{who} contributed, the first after {show_span(arrivals[0])}{last}."]
    if 0 < story.most_present < everybody:
        most = f"At most {story.most_present} of {everybody} hospitals were online at once"
        words.append(f"{most}.")
    if models:
        made = len(story.publications[-1].sites)
        words.append(f"{plural(models, 'model')} {were(models)} published.")
        words += [f"The last is made of {plural(made, 'contribution')}."] if made else []
    if refused:
        words.append(f"{plural(refused, 'contribution')} {were(refused)} refused; see below why.")
    if story.restarts:
        times = "once" if len(story.restarts) == 1 else f"{len(story.restarts)} times"
        words.append(f"The coordinator was started again {times} and kept what it had received.")
    return " ".join(words)


def tell_development(steps: Sequence[Step], levels: Sequence[Level]) -> str:
    """Compare the first complete model with the last, and the last with everything else."""
    complete = [step for step in steps if step.complete]
    if not steps:
        return ""
    if len(complete) < 2:
        return "Too few models were scored by every hospital to compare them with each other."
    first, last = complete[0], complete[-1]
    gain = subtract(last.mean, first.mean)
    went = "rose" if gain > 0 else "fell"
    if abs(gain) < NO_CLEAR_DIFFERENCE:
        went = "stayed about the same"
    words = [
        f"From model {first.number} to model {last.number} the mean {went}, from "
        f"{show_score(first.mean)} to {show_score(last.mean)} ({show_difference(gain)})."
    ]
    best = max(complete, key=lambda step: step.mean)
    if subtract(best.mean, last.mean) > 0:
        words.append(f"Model {best.number} had the highest mean, {show_score(best.mean)}.")
    lost = [
        site
        for site, score in last.scores.items()
        if site in first.scores and subtract(score, first.scores[site]) < 0
    ]
    if lost:
        words.append(f"At {join_words(lost)} the last model scores lower than the first.")
    if levels:
        places = [_place(last.mean, level) for level in levels]
        words.append(f"The last model is {join_words(places)}.")
    return " ".join(words)


def _place(score: float, level: Level) -> str:
    return f"{compare_scores(score, level.value)} {level.title} ({show_score(level.value)})"


def tell_worth(figures: MergingFigures, score_name: str) -> tuple[str, ...]:
    """Compare the published model with single hospitals, references and controls."""
    ours, best = figures.published, figures.best
    if ours.mean is None:
        return ("The merged model was not tested at the hospitals where the others were tested.",)
    lead = f"{ours.title} reaches a mean {score_name} of {show_score(ours.mean)}."
    if best is not None and best.mean is not None:
        place = compare_scores(ours.mean, best.mean)
        single = f"the best single hospital's model ({best.title}, {show_score(best.mean)})"
        lead = f"{lead[:-1]}, {place} {single}.{tell_recovery(ours.recovery)}"
    others = [
        f"{compare_scores(ours.mean, row.mean)} {row.title}"
        for row in figures.standings
        if row.role == "reference" and row.mean is not None
    ]
    words = [lead, *([f"It is {join_words(others)}."] if others else [])]
    for row in figures.standings:
        if row.role == "control" and row.mean is not None:
            words.append(_tell_control(row.title, row.mean, subtract(ours.mean, row.mean)))
    return (*words, *_tell_better_rule(figures, ours.mean))


def _tell_control(title: str, mean: float, gain: float) -> str:
    meaning = "So it matters what the hospitals learned."
    if gain < NO_CLEAR_DIFFERENCE:
        meaning = "So the score says nothing about what the hospitals learned."
    return f"The {title} reaches {show_score(mean)}. {meaning}"


def _tell_better_rule(figures: MergingFigures, ours: float) -> list[str]:
    rules = [
        (row.mean, row.title)
        for row in figures.standings
        if row.role == "rule" and row.mean is not None
    ]
    mean, title = max(rules, key=lambda pair: pair[0], default=(ours, ""))
    if subtract(mean, ours) <= 0:
        return []
    return [
        f"Of the rules, {title} has the highest score ({show_score(mean)}). It was not published."
    ]


def tell_restoration(found: Sequence[Restoration]) -> str:
    """Say what restoration adds to each, and whether merging is ahead when everybody gets it."""
    if not found:
        return ""
    words = [f"{show_difference(each.difference)} for {each.title}" for each in found]
    text = f"Restoration makes a difference of {join_words(words)}."
    ours = next((each for each in found if each.role == "published"), None)
    singles = [each for each in found if each.role == "single"]
    single = max(singles, key=lambda each: each.restored, default=None)
    if ours and single:
        place = compare_scores(ours.restored, single.restored)
        text += (
            f" With restoration for both, merging ({show_score(ours.restored)}) is {place} the "
            f"best single hospital's model ({single.title}, {show_score(single.restored)})."
        )
    return text


def tell_travels(results: Results, travels: Sequence[Travel]) -> str:
    """Say what happens to a single hospital's model at other hospitals, and to the merged one."""
    sites = [hospital.name for hospital in results.hospitals]
    home: list[float] = []
    away: list[tuple[float, str, str]] = []
    merged: list[tuple[float, str, str]] = []
    for travel in travels:
        for score, site in zip(travel.scores, sites, strict=True):
            if score is None:
                continue
            if not travel.home:
                merged.append((score, site, travel.title))
            elif site == travel.home:
                home.append(score)
            else:
                away.append((score, travel.home, site))
    if not home or not away:
        return ""
    worst, whose, where = min(away)
    elsewhere = show_score(fmean(score for score, *_ in away))
    text = (
        f"On average a hospital's model scores {show_score(fmean(home))} at its own hospital and "
        f"{elsewhere} at others. The lowest score is {show_score(worst)}: the model of {whose} at "
        f"{where}."
    )
    if not merged:
        return text
    score, site, title = min(merged)
    return f"{text} {title} scores lowest at {site}, with {show_score(score)}."
