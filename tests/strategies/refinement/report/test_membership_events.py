from typing import Any

from polyclinic_strategies.merging.report.timeline_events import Event
from polyclinic_strategies.refinement.report.membership_events import (
    Occasion,
    find_moved,
    find_occasions,
)
from tests.strategies.refinement.refinement_run import at, refined


def test_questions_for_news_and_greetings_are_counted_apart() -> None:
    found = {
        "a": {"query.collect": 7, "query.hello": 20},
        "x": {"query.hello": 300, "query.collect": 4000, "query.refined": 50_000},
    }
    assert (find_moved("x", "join", found).own, find_moved("x", "join", found).regular) == (
        50_300,
        4027,
    )
    assert find_moved("x", "update", found).own == 54_300, (
        "a contribution is the answer to the question for news"
    )
    assert find_moved("x", "join", found).others == {}
    assert find_moved("x", "join", {"x": None, "a": {"train": "much"}}).others == {}


def test_somebody_who_comes_with_a_first_contribution_joined() -> None:
    happened = [
        at(0, "arm_start"),
        at(5, "contribution", site="d", num_examples=1),
        refined(5, "d", "update", {"d": 1.0}),
    ]
    assert find_occasions(read_as_events(happened)) == (
        Occasion("d", "update", 5.0, "joined with a contribution from 1 training case"),
    )


def read_as_events(lines: list[dict[str, Any]]) -> list[Event]:
    return [
        Event(line["time"], line["kind"], line["arm"], line.get("site", ""), line) for line in lines
    ]
