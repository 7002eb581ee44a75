"""What a reader should know of single hospitals: refusals, withdrawals and missing scores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polyclinic.reporting.formats import join_words, show_rounds, show_span
from polyclinic.reporting.results import Arm, Results
from polyclinic_strategies.merging.report.standings import all_metrics
from polyclinic_strategies.merging.report.timeline_events import Mark

REFUSED = {
    "BaseMismatch": "it was not trained from the federation's starting model",
    "StaleBase": "it was trained from a starting model that is too old",
    "TensorsMissing": "parts of the network are missing in it",
    "TensorsExtra": "it has parts that the network does not have",
    "ShapeRefused": "it is of another network",
    "TypeRefused": "its numbers are in another format",
    "NotFinite": "it holds values that are not numbers, as a failed training leaves them",
    "NormTooLarge": "it is far larger than the others' contributions",
    "UpdateTooLong": "it is larger than training can make it",
    "TooManyExamples": "it claims more training examples than a hospital has",
    "StatisticRefused": "its statistics are not those that were asked for",
    "ContributionTooLarge": "its file is too large",
    "UnknownSite": "the hospital does not belong to the federation",
    "SiteMismatch": "it was sent in another hospital's name",
    "TaskMismatch": "it was made for another task",
    "ContributionDamaged": "its file is damaged",
}
NAMED_TIMES = 3


@dataclass(frozen=True)
class Notice:
    """Something about one hospital that a reader should know.

    Attributes:
        text: Follows the hospital's name.
        reason: The coordinator's own sentence; may be empty.
    """

    site: str
    text: str
    reason: str


def find_notices(marks: Iterable[Mark]) -> tuple[Notice, ...]:
    """Tell refusals, repetitions and withdrawals; the same again is counted."""
    grouped: dict[tuple[str, str, str, str], list[float]] = {}
    for mark in marks:
        if mark.kind != "contribution":
            grouped.setdefault((mark.site, mark.kind, mark.error, mark.reason), []).append(mark.at)
    return tuple(
        Notice(site, _tell_mark(kind, error, _list_times(times)), reason)
        for (site, kind, error, reason), times in grouped.items()
    )


def _list_times(times: Sequence[float]) -> str:
    more = f" and {len(times) - NAMED_TIMES} times more" if len(times) > NAMED_TIMES else ""
    return join_words([show_span(at) for at in times[:NAMED_TIMES]]) + more


def _tell_mark(kind: str, error: str, when: str) -> str:
    if kind == "contribution_refused":
        why = REFUSED.get(error, "the contribution does not meet the requirements")
        return f"was refused after {when}: {why}."
    if kind == "set_aside":
        return f"was set aside after {when}: the others are merged without it."
    if kind == "failed":
        return f"answered nothing of use after {when}."
    if kind == "withdrawn":
        return (
            f"was withdrawn after {when}. The model that was published then is the same as one "
            "made without its contribution."
        )
    return f"sent a contribution again after {when}. It counts once."


def find_missing(results: Results, arm: Arm) -> tuple[Notice, ...]:
    """Tell scores that a hospital did not give, with the reason."""
    comparison = results.comparison_of(arm)
    compared = comparison.entries if comparison else ()
    titles = {arm.name: arm.title} | {entry.name: entry.title for entry in compared}
    numbers: dict[tuple[str, str], list[int]] = {}
    tests: dict[tuple[str, str], list[str]] = {}
    for m in all_metrics(results):
        if m.missing and m.phase == "validate" and m.arm == arm.name:
            numbers.setdefault((m.site, m.missing), []).append(m.round)
        elif m.missing and m.phase == "test" and m.arm in titles:
            tests.setdefault((m.site, m.missing), []).append(titles[m.arm])
    unscored = [
        Notice(site, f"did not score published model {show_rounds(which)}.", why)
        for (site, why), which in numbers.items()
    ]
    untested = [
        Notice(site, f"did not test {join_words(list(dict.fromkeys(names)))}.", why)
        for (site, why), names in tests.items()
    ]
    return (*unscored, *untested)
