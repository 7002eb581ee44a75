"""A run's result in words: what a physician reads first, and how numbers and dates are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from polyclinic.reporting.results import Arm, Results, ScoreTable, headline
from polyclinic_strategies.merging.report.standings import Figures, compare

EN_DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
NO_CLEAR_DIFFERENCE = 0.005  # a gain smaller than this is reported as none
NO_TEST_YET = "These are scores on validation images: no test result is in yet."
ONE_RUN = "This is one run with one split of the subjects: small differences may be chance."
SCORE_WORDS = {
    "Dice": "Dice is the overlap of the model's outlines with the reference outlines: 0 is none, 1 is perfect.",
    "balanced accuracy": "Balanced accuracy is the share of images recognised correctly, averaged over the classes "
    "so that a rare class counts as much as a common one: 1 is perfect.",
    "score": "The score of a segmentation is Dice (overlap with the reference outlines), that of a classification balanced accuracy: "
    "1 is perfect.",
}


@dataclass(frozen=True)
class Summary:
    """The result in one sentence, and a second one that puts it in proportion."""

    lead: str
    support: str


def best_federated(results: Results, table: ScoreTable) -> tuple[Arm, float] | None:
    """The federated arm with the highest mean, and the mean."""
    scored = [
        (a, score)
        for a in results.arms
        if a.federated and (score := table.mean[a.name].score) is not None
    ]
    return max(scored, key=lambda pair: pair[1], default=None)


def summarize(results: Results) -> Summary:
    """What a physician wants to know first; also when the answer is that it did not help."""
    table = headline(results)
    if not table.averaged:
        return Summary("There are no scores yet that could be compared.", "")
    over = f"averaged over {plural(len(table.averaged), 'hospital')}"
    best = best_federated(results, table)
    local = table.mean["local"].score if "local" in table.mean else None
    if best is None:
        scored = [(arm, s) for arm in results.arms if (s := table.mean[arm.name].score) is not None]
        arm, score = max(scored, key=lambda pair: pair[1])
        lead = f"No federated model has a score; {over}, {arm.title} reaches a {results.score_name} of {show(score)}."
        return Summary(lead, _proportion(results, table))
    arm, score = best
    reached = f"{over}, {arm.title} reaches a {results.score_name} of {show(score)}"
    if local is not None:
        gain = round(score, 3) - round(local, 3)
        lead = f"{_verdict(gain, arm)}: {reached}, against {show(local)} for hospitals that trained alone."
    else:
        single = _against_single(compare(results, arm)) if arm.merging else ""
        alone = f"{reached[0].upper()}{reached[1:]}; this run has no model trained by a hospital alone to compare it with."
        lead = single or alone
    return Summary(lead, _proportion(results, table))


def _verdict(gain: float, arm: Arm) -> str:
    what = "Merging the hospitals' models" if arm.merging else "Training together"
    if abs(gain) < NO_CLEAR_DIFFERENCE:
        return f"{what} made no clear difference"
    return (
        f"{what} {'helped' if gain > 0 else 'did not help'} in this run ({show_difference(gain)})"
    )


def _against_single(figures: Figures) -> str:
    """The verdict on merging beside the best single hospital's model; empty if either was not tested."""
    ours, best = figures.published, figures.best
    if ours.mean is None or best is None or best.mean is None or ours.difference is None:
        return ""
    return (
        f"{_verdict(ours.difference, figures.arm)}: averaged over {plural(len(figures.averaged), 'hospital')}, {ours.title} scores "
        f"{show(ours.mean)}, against {show(best.mean)} for the best single hospital's model ({best.title}), used everywhere."
    )


def _merged(results: Results) -> list[str]:
    """Where every merging arm is beside the best single hospital's model, used everywhere."""
    words = []
    for figures in (compare(results, arm) for arm in results.arms if arm.merging):
        ours, best = figures.published, figures.best
        if ours.mean is not None and best is not None and best.mean is not None:
            words.append(
                f"{ours.title} is {place(ours.mean, best.mean)} the best single hospital's model ({best.title}, used at every hospital)"
                f"{tell_recovery(ours.recovery)}."
            )
    return words


def _proportion(results: Results, table: ScoreTable) -> str:
    """Hospitals that gained and lost, how near the upper bound is, and how little one run proves."""
    words = []
    best = best_federated(results, table)
    if best is not None:
        gains = {
            site: gain
            for site, row in table.rows.items()
            if (gain := row[best[0].name].difference) is not None
        }
        if gains:
            worse = [
                f"{site} ({show_difference(gain)})"
                for site, gain in gains.items()
                if round(gain, 3) < 0
            ]
            better = sum(round(gain, 3) > 0 for gain in gains.values())
            losers = f"; it did worse at {', '.join(worse)}" if worse else ""
            share = f"{better} of {plural(len(gains), 'hospital')}"
            words.append(f"{best[0].title} did better than the hospital alone at {share}{losers}.")
        pooled = table.mean["pooled"].score if "pooled" in table.mean else None
        if pooled is not None:
            side = "below" if best[1] < pooled else "above"
            gap = show(abs(round(pooled, 3) - round(best[1], 3)))
            words.append(
                f"Its mean is {gap} {side} that of one model trained on all images in one place."
            )
    words += _merged(results)
    if table.source == "validate":
        words.append(NO_TEST_YET)
    words.append(ONE_RUN)
    return " ".join(words)


def tiles(results: Results) -> list[tuple[str, str]]:
    """The few numbers on top of the page, each with its caption."""
    table = headline(results)
    best = best_federated(results, table)
    found = [(show(best[1]), f"{best[0].title}, the best federated model")] if best else []
    for arm in results.arms:
        score = table.mean[arm.name].score
        if not arm.federated and score is not None:
            meanings = {
                "local": "every hospital alone",
                "pooled": "all images in one place",
                "before": "where the universal model began",
            }
            meaning = meanings[arm.name]
            found.append((show(score), f"{arm.title}: {meaning}"))
    gains = [row[best[0].name].difference for row in table.rows.values()] if best else []
    known = [gain for gain in gains if gain is not None]
    if known:
        caption = "hospitals better off with it than alone"
        found.append((f"{sum(round(gain, 3) > 0 for gain in known)} of {len(known)}", caption))
    for figures in (compare(results, arm) for arm in results.arms if arm.merging):
        single, gain = figures.best, figures.published.difference
        if single is not None and gain is not None:
            found.append(
                (
                    show_difference(gain),
                    f"{figures.arm.title} beside {single.title}, the best single hospital",
                )
            )
    return found


def show(score: float | None) -> str:
    """A score with three decimals, or a dash where there is none."""
    return EN_DASH if score is None else f"{score:.3f}"


def show_difference(difference: float) -> str:
    """A difference with its sign; what rounds to nothing has none."""
    return "±0.000" if round(difference, 3) == 0 else f"{difference:+.3f}".replace("-", MINUS)


def show_rounds(rounds: Sequence[int]) -> str:
    """Rounds with neighbours joined: 2 to 4, then 7."""
    ordered = sorted(set(rounds))
    starts = ordered[:1] + [after for before, after in pairwise(ordered) if after != before + 1]
    ends = [before for before, after in pairwise(ordered) if after != before + 1] + ordered[-1:]
    return ", ".join(
        f"{a}" if a == b else f"{a}{EN_DASH}{b}" for a, b in zip(starts, ends, strict=True)
    )


def show_date(moment: str) -> str:
    """An ISO time as a person writes it; anything else as it is."""
    parsed = _parse_time(moment)
    return (
        moment
        if parsed is None
        else f"{parsed.day} {parsed:%B %Y, %H:%M}" + (f" {parsed:%Z}" if parsed.tzinfo else "")
    )


def show_duration(started: str, finished: str) -> str:
    """The time between two ISO times, or nothing where one is missing."""
    first, last = _parse_time(started), _parse_time(finished)
    if first is None or last is None or (first.tzinfo is None) != (last.tzinfo is None):
        return ""
    seconds = round((last - first).total_seconds())
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {seconds % 60} s"
        if minutes
        else f"{seconds} s"
    )


def _parse_time(moment: str) -> datetime | None:
    try:
        return datetime.fromisoformat(moment)
    except ValueError:
        return None


def plural(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def join_words(words: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def place(score: float, other: float) -> str:
    """Where a score is beside another one, of the three decimals that are shown."""
    difference = round(round(score, 3) - round(other, 3), 3)
    return (
        "level with"
        if difference == 0
        else f"{abs(difference):.3f} {'above' if difference > 0 else 'below'}"
    )


def show_recovery(recovery: float | None) -> str:
    """A share in percent, or a dash."""
    return EN_DASH if recovery is None else f"{round(recovery * 100)} %".replace("-", MINUS)


def tell_recovery(recovery: float | None) -> str:
    """What a recovery means, to be put after what was compared; nothing where it is undefined."""
    if recovery is None or recovery <= 0:
        return ""
    if recovery >= 1:
        return ", and at least as good as the model trained on all images in one place"
    return f", which closes {show_recovery(recovery)} of the gap between that and the model trained on all images in one place"
