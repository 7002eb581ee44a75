from typing import Any

import pytest

from polyclinic.federation.events import Event, by_kind, installed_events
from polyclinic_strategies.refinement.events import Moved, Traffic
from polyclinic_strategies.refinement.report.membership_events import (
    MembershipEvent,
    find_membership_events,
    find_models,
)
from tests.strategies.refinement.refinement_run import START, at, events, join, refined

KINDS = by_kind(installed_events())


def as_events(lines: list[dict[str, Any]]) -> list[Event]:
    return [KINDS[line["kind"]].model_validate(line) for line in lines]


@pytest.mark.parametrize(
    ("why", "own", "regular"),
    [("join", 50_300, 4027), ("update", 54_300, 27)],
    ids=["a question is regular", "a contribution is the answer to one"],
)
def test_questions_and_greetings_are_counted_apart(why: str, own: int, regular: int) -> None:
    moved = {
        "a": {"query.collect": 7, "query.hello": 20},
        "x": {"query.hello": 300, "query.collect": 4000, "query.refined": 50_000},
    }
    assert Traffic(site="x", why=why, bytes=moved).sort() == Moved(own, {}, regular)


def test_a_hospital_that_comes_with_a_first_contribution_joined() -> None:
    happened = [
        at(0, "arm_start"),
        at(5, "contribution", site="d", num_examples=1),
        refined(5, "d", "update", {"d": 1.0}),
        at(9, "contribution", site="d", num_examples=3),
        refined(9, "d", "update", {"d": 1.0}),
    ]
    first, second = find_membership_events(as_events(happened))
    assert (first.site, first.why, first.at, second.at) == ("d", "update", 5.0, 9.0)
    assert "joined" in first.what and "1 training case" in first.what
    assert "joined" not in second.what and "3 training cases" in second.what


def test_every_hospital_that_came_changed_or_left_is_found_once() -> None:
    found = find_membership_events(as_events(events()))
    assert [(each.site, each.why, each.at) for each in found] == [
        ("x", "join", 20.0), ("y", "join", 30.0), ("z", "join", 40.0),
        ("b", "update", 50.0), ("c", "withdrawal", 60.0),
    ]  # fmt: skip
    assert [each.seconds for each in found] == [0.5, 0.5, 0.5, 2.25, None]
    assert [each.recalculated for each in found] == [1, 1, 1, 3, 3]
    assert [each.recalculated_s for each in found] == [None, None, None, 0.02, 0.05]
    assert found[0].moved == Moved(42_000, {}, 300)


def test_a_failure_is_one_with_its_reason() -> None:
    happened = [
        at(0, "arm_start"),
        at(3, "failed", phase="describe", site="y", reason="no images"),
        at(4, "failed", phase="train", site="y", reason="told elsewhere"),
    ]
    (found,) = find_membership_events(as_events(happened))
    assert isinstance(found, MembershipEvent)
    assert (found.site, found.why, found.failed) == ("y", "failed", "no images")


def test_the_newest_model_counts() -> None:
    happened = [*join(1, "x", 5, {"a": 1.0}), refined(9, "x", "join", {"b": 1.0})]
    (found,) = find_models(as_events(happened)).values()
    assert found.coefficients == {"b": 1.0} and found.time == START + 9
