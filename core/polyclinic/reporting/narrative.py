"""The result of a run in words: what a physician reads first, computed from the figures."""

from collections.abc import Mapping, Sequence

from polyclinic.reporting.formats import (
    compare_scores,
    join_words,
    plural,
    show_difference,
    show_score,
    subtract,
)
from polyclinic.reporting.measured.standing import Standing, find_standings
from polyclinic.reporting.results import LOCAL, POOLED, Arm, Results
from polyclinic.reporting.scores import ScoreTable, headline
from polyclinic.reporting.section import ArmNote, Section, Summary, Tile

NO_CLEAR_DIFFERENCE = 0.005  # a gain smaller than this is reported as none
NO_TEST_YET = "These are scores on validation images. No test result is in yet."
ONE_RUN = "This is one run with one split of the subjects: small differences may be due to chance."
TOGETHER = ArmNote("Training together")
REFERENCES = {LOCAL: "every hospital alone", POOLED: "all images in one place"}


def summarize(results: Results, sections: Sequence[Section] = ()) -> Summary:
    """Tell the result of a run, also when federated learning did not help."""
    for section in sections:
        if section.summary is not None:
            return section.summary
    table = headline(results)
    notes = {name: note for section in sections for name, note in section.arms.items()}
    if not table.averaged:
        return Summary("There are no scores yet that could be compared.")
    return Summary(
        _tell_lead(results, table, notes),
        _tell_proportion(results, table, notes),
        _find_tiles(results, table, notes),
        _tell_worst(results, table),
    )


def find_best(results: Results, table: ScoreTable) -> tuple[Arm, float] | None:
    """Find the federated arm with the highest mean, and the mean."""
    means = ((arm, table.mean_score(arm.name)) for arm in results.arms if arm.federated)
    scored = [(arm, score) for arm, score in means if score is not None]
    return max(scored, key=lambda pair: pair[1], default=None)


def tell_verdict(gain: float) -> str:
    """Say whether something helped, of a difference of scores."""
    made = "helped" if gain > 0 else "did not help"
    if abs(gain) < NO_CLEAR_DIFFERENCE:
        made = "made no clear difference"
    return f"{made} in this run ({show_difference(gain)})"


def _tell_worst(results: Results, table: ScoreTable) -> str:
    """Tell the worst hospital of the best federated model, and the gap; nothing of one hospital."""
    found = _find_worst(results, table)
    if found is None:
        return ""
    return (
        f"At the worst hospital, {found.worst}, {found.arm.title} reaches a "
        f"{results.run.score_name} of {show_score(found.score)}, {show_score(found.gap)} below "
        "the best one."
    )


def _find_worst(results: Results, table: ScoreTable) -> Standing | None:
    """Find where the hospitals stand with the best federated model; None of one hospital."""
    best = find_best(results, table)
    found = (each for each in find_standings(results) if best and each.arm == best[0])
    standing = next(found, None)
    return standing if standing is not None and standing.gap is not None else None


def _tell_lead(results: Results, table: ScoreTable, notes: Mapping[str, ArmNote]) -> str:
    over = f"averaged over {plural(len(table.averaged), 'hospital')}"
    measure = results.run.score_name
    best = find_best(results, table)
    if best is None:
        means = ((arm, table.mean_score(arm.name)) for arm in results.arms)
        arm, score = max(((a, s) for a, s in means if s is not None), key=lambda pair: pair[1])
        reached = f"{arm.title} reaches a {measure} of {show_score(score)}"
        return f"No federated model has a score; {over}, {reached}."
    arm, score = best
    note = notes.get(arm.name, TOGETHER)
    reached = f"{over}, {arm.title} reaches a {measure} of {show_score(score)}"
    local = table.mean_score(LOCAL)
    if local is not None:
        verdict = f"{note.subject} {tell_verdict(subtract(score, local))}"
        return f"{verdict}: {reached}. Hospitals that trained alone reach {show_score(local)}."
    alone = "No hospital trained a model alone in this run, so there is no comparison with that."
    return note.lead or f"{reached[0].upper()}{reached[1:]}. {alone}"


def _tell_proportion(results: Results, table: ScoreTable, notes: Mapping[str, ArmNote]) -> str:
    """Tell who gained and who lost, how near the upper bound is, and how little one run proves."""
    words = []
    best = find_best(results, table)
    if best is not None:
        words.append(_tell_gains(best[0], find_gains(table, best[0])))
        pooled = table.mean_score(POOLED)
        if pooled is not None:
            place = compare_scores(best[1], pooled)
            words.append(
                f"Its mean is {place} that of one model trained on all images in one place."
            )
    words += [notes[arm.name].support for arm in results.arms if arm.name in notes]
    words.append(NO_TEST_YET if table.source == "validate" else "")
    return " ".join(filter(None, [*words, ONE_RUN]))


def find_gains(table: ScoreTable, arm: Arm) -> dict[str, float]:
    """Find how much better off than alone every hospital is with an arm's model."""
    differences = {site: row[arm.name].difference for site, row in table.rows.items()}
    return {site: gain for site, gain in differences.items() if gain is not None}


def _tell_gains(arm: Arm, gains: Mapping[str, float]) -> str:
    if not gains:
        return ""
    worse = [f"{site} ({show_difference(gain)})" for site, gain in gains.items() if gain < 0]
    losers = f" It does worse at {join_words(worse)}." if worse else ""
    share = f"{sum(gain > 0 for gain in gains.values())} of {plural(len(gains), 'hospital')}"
    return f"{arm.title} does better than the hospital's own model at {share}.{losers}"


def _find_tiles(
    results: Results, table: ScoreTable, notes: Mapping[str, ArmNote]
) -> tuple[Tile, ...]:
    """Choose the few figures on top of the page, each with its caption."""
    best = find_best(results, table)
    found = [(show_score(best[1]), f"{best[0].title}, the best federated model")] if best else []
    for arm in results.arms:
        score = table.mean_score(arm.name)
        if arm.reference and score is not None:
            meaning = REFERENCES.get(arm.name, "reference")
            found.append((show_score(score), f"{arm.title}: {meaning}"))
    gains = find_gains(table, best[0]) if best else {}
    if gains:
        better = sum(gain > 0 for gain in gains.values())
        found.append((f"{better} of {len(gains)}", "hospitals do better with it than alone"))
    tiles = [tile for arm in results.arms if arm.name in notes for tile in notes[arm.name].tiles]
    return (*found, *tiles)
