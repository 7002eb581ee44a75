"""The live table: what each event changes in it, and the line that it prints."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from polyclinic.federation.events import Joined, Progress, by_kind, installed_events
from polyclinic.federation.live_state import LiveState
from polyclinic_server.runs.live_table import LiveTable, show

KINDS = by_kind(installed_events())


def take(table: LiveTable, event: dict[str, Any]) -> str | None:
    return table.handle(KINDS[event["kind"]].model_validate(event))


def check(lines: list[str | None], *wanted: tuple[str, ...] | None) -> None:
    """Compare lines with the names and figures that they must hold; None is no line."""
    assert [line is None for line in lines] == [words is None for words in wanted], lines
    for line, words in zip(lines, wanted, strict=True):
        assert [word for word in words or () if word not in (line or "")] == [], line


def rounds_table() -> LiveTable:
    return LiveTable(LiveState({"fedavg": "FedAvg"}, 2, "Dice"))


def play(one: LiveTable) -> list[str | None]:
    events = [
        {"kind": "joined", "site": "a", "modality": "T1", "training": 4},
        {"kind": "joined", "site": "b", "modality": "T2", "training": 4},
        {"kind": "arm_start", "arm": "fedavg", "title": "FedAvg", "rounds": 2, "offset": 0},
        {"kind": "asked", "phase": "train", "round": 1, "site": "a", "again": False},
        {"kind": "answered", "phase": "train", "round": 1, "site": "a", "loss": 0.5},
        {"kind": "answered", "phase": "evaluate", "round": 1, "site": "a", "score": 0.8},
        {"kind": "missing", "phase": "evaluate", "round": 1, "site": "b", "reason": "off 61 s"},
        {"kind": "round_end", "round": 1},
    ]
    return [take(one, event) for event in events]


def test_an_event_gives_one_line_or_none() -> None:
    check(
        play(rounds_table()),
        ("a ", "T1", "4"),
        ("b ", "T2", "4"),
        ("FedAvg", "2"),
        None,
        None,
        None,
        ("b ", "off 61 s"),
        ("FedAvg", "1 of 2", "loss 0.500", "Dice 0.800", "1 of 2 hospitals", " left"),
    )


def test_the_table_shows_who_does_what_and_how_much_is_left() -> None:
    one = rounds_table()
    play(one)
    take(one, {"kind": "asked", "phase": "train", "round": 2, "site": "a", "again": False})
    console = Console(width=100, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(one)
    text = captured.get()
    assert "FedAvg (1 of 1), round 2 of 2" in text
    assert "training (0 s)" in text
    assert "left" in text
    assert 0.0 < one.state.share < 1.0


def test_without_a_terminal_lines_are_printed_and_nothing_else() -> None:
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured, show(rounds_table(), console) as handle:
        handle(Joined(site="[a]", modality="T1", training=1))
        handle(Progress(text="step 1"))
    check(captured.get().splitlines(), ("[a]", "T1", "1"))  # type: ignore[arg-type]


def merging_table() -> LiveTable:
    titles = {"merging-mean": "Merging (mean)", "fedavg": "FedAvg"}
    return LiveTable(LiveState(titles, 2, "Dice", frozenset({"merging-mean"}), expected=3))


def draw(one: LiveTable) -> str:
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        console.print(one)
    return captured.get()


CONTRIBUTION = {"kind": "contribution", "num_examples": 4, "norm": 1.0}
START = {"kind": "arm_start", "rounds": 2, "offset": 0}
MERGING = (
    {"kind": "joined", "site": "a", "modality": "T1", "training": 4},
    {**START, "arm": "merging-mean", "title": "Merging (mean)"},
    {"kind": "progress", "site": "a", "text": "training 40 %"},
    {**CONTRIBUTION, "site": "a", "digest": "d", "staleness": 0, "number": 1},
    {"kind": "duplicate", "site": "a", "digest": "d"},
    {"kind": "published", "number": 1, "digest": "d", "sites": ["a"], "why": "arrival"},
    {"kind": "scored", "number": 1, "site": "a", "score": 0.5},
    {"kind": "contribution_refused", "site": "b", "error": "NotFinite", "reason": "w is NaN."},
    {**CONTRIBUTION, "site": "b", "digest": "e", "staleness": 1, "number": 2},
    {"kind": "withdrawn", "site": "b", "reason": "consent"},
    {"kind": "published", "number": 2, "digest": "d", "sites": ["a"], "why": "withdrawal"},
    {"kind": "resumed"},
)


def merge(one: LiveTable) -> list[str | None]:
    return [take(one, event) for event in MERGING]


def test_without_rounds_it_counts_contributions() -> None:
    check(
        merge(merging_table())[1:],
        ("Merging (mean)", "0 of 3"),
        None,
        ("a ", "4 training cases", "1 of 3"),
        ("a ", "once"),
        ("model 1 ", "1 contribution"),
        ("a ", "model 1", "Dice 0.500"),
        ("b", "refused", "w is NaN."),
        ("b ", "4 training cases", "1 bases", "2 of 3"),
        ("b", "withdrawn", "consent"),
        ("model 2 ", "withdrawal", "1 contribution"),
        ("1 of 3",),
    )


def test_the_head_line_of_a_merging_arm_has_no_rounds_and_no_time_left() -> None:
    one = merging_table()
    merge(one)
    take(one, {"kind": "progress", "site": "b", "text": "training 40 %"})
    text = draw(one)
    head = text.splitlines()[0]
    assert "Merging (mean) (1 of 2)" in head and "1 of 3" in head
    assert "training 40 %" in text
    assert "round" not in text
    assert "left" not in text
    # one contribution of three contributions, a test, two rounds and another test
    assert one.state.share == pytest.approx(1 / 7)


def test_after_a_merging_arm_rounds_have_their_pace_again() -> None:
    one = merging_table()
    merge(one)
    check(
        [take(one, {"kind": "arm_end", "arm": "merging-mean"})],
        ("Merging (mean)", "1 of 3", "Dice 0.500"),
    )
    assert one.state.share == pytest.approx(4 / 7)
    take(one, {**START, "arm": "fedavg", "title": "FedAvg"})
    take(one, {"kind": "answered", "phase": "train", "round": 1, "site": "a", "loss": 0.5})
    check([take(one, {"kind": "round_end", "round": 1})], ("FedAvg", " 0 s left"))
    assert one.state.share == pytest.approx(5 / 7)


def test_a_restarted_coordinator_knows_who_contributed_and_how_many_are_expected() -> None:
    one = LiveTable(LiveState({"m": "Merging"}, 0, "Dice", frozenset({"m"})))
    take(one, {**START, "arm": "m", "title": "Merging", "rounds": 0, "expected": 4})
    take(one, {"kind": "published", "number": 2, "digest": "d", "sites": ["a", "b"]})
    assert "2 of 4" in draw(one)


def test_the_score_of_another_model_is_not_the_strategy_s() -> None:
    one = merging_table()
    merge(one)
    answered = {"kind": "answered", "round": 2, "site": "a"}
    take(one, {**answered, "phase": "evaluate.test", "arm": "random", "score": 0.01})
    take(one, {**answered, "phase": "evaluate", "arm": "merging-mean", "score": 0.6})
    assert one.state.rows["a"].score == 0.6
    assert one.state.rows["a"].doing == "scored model 2"


def refine(one: LiveTable, *events: dict[str, Any]) -> list[str | None]:
    first = [
        {"kind": "joined", "site": "a", "modality": "T1", "mode": "train", "training": 4},
        {"kind": "joined", "site": "x", "modality": "T2", "mode": "describe", "training": 0},
        {**START, "arm": "refinement", "title": "Refinement", "expected": 1},
    ]
    return [take(one, event) for event in (*first, *events)]


def refinement_table() -> LiveTable:
    return LiveTable(LiveState({"refinement": "Refinement"}, 2, "Dice", frozenset({"refinement"})))


def traffic(why: str, site: str, **others: int) -> dict[str, Any]:
    moved = {
        name: {"query.collect": 100, "query.refined": count}
        for name, count in {"a": 0, **others}.items()
    }
    return {"kind": "traffic", "why": why, "site": site, "bytes": moved}


REFINED = {"kind": "refined", "fallback": ""}
JOINED = (
    {"kind": "described", "site": "x", "subjects": 5, "statistic": "average_image", "seconds": 0.1},
    {**REFINED, "site": "x", "why": "join", "coefficients": {"b": 0.19, "a": 0.81}},
    {"kind": "delivered", "site": "x", "why": "join", "seconds": 0.323},
)
RECALCULATED = {"kind": "recalculated", "sites": ["a", "x"], "gone": ["b"], "seconds": 0.05}
LEFT = {**RECALCULATED, "why": "withdrawal"}


def test_a_newcomer_s_story_is_told_in_two_lines() -> None:
    check(
        refine(refinement_table(), *JOINED, traffic("join", "x", x=40_000))[1:],
        ("x ", "T2", "description"),
        ("Refinement", "0 of 1"),
        None,
        ("x ", "5 images", "81 % a", "19 % b"),
        ("x ", "0.32 s"),
        None,
    )


def test_who_only_describes_itself_is_not_expected_to_contribute() -> None:
    one = refinement_table()
    refine(one)
    one.state.expected = 0
    assert "0 of 1" in draw(one)


def test_beside_each_hospital_is_where_its_model_is() -> None:
    one = refinement_table()
    refine(one)
    doing = [(take(one, event), one.state.rows["x"].doing)[1] for event in JOINED]
    assert doing == ["described 5 images", "its model is on its way", "has its model"]
    take(one, LEFT)
    assert one.state.rows["b"].doing == "left"


@pytest.mark.parametrize(
    ("others", "named"), [({"b": 0}, ("no other",)), ({"x": 1200}, ("x 1.2 kB",))]
)
def test_a_departure_is_told_once_its_traffic_is_known(
    others: dict[str, int], named: tuple[str, ...]
) -> None:
    lines = refine(refinement_table(), LEFT, traffic("withdrawal", "b", **others))[3:]
    check(lines, None, ("b left", "2 models", "0.05 s", *named))


def test_hospitals_that_send_or_receive_for_another_are_named() -> None:
    check(refine(refinement_table(), traffic("join", "x", a=7, x=40_000))[3:], ("x ", "a 7 B"))


def test_an_update_and_a_fallback_in_a_line() -> None:
    arrival = {**RECALCULATED, "why": "arrival", "sites": ["a"], "gone": [], "seconds": 0.01}
    changed = {**REFINED, "site": "a", "why": "update", "coefficients": {"a": 1.0}}
    alone = {
        **REFINED,
        "site": "x",
        "why": "join",
        "coefficients": {"a": 0.5, "b": 0.5},
        "fallback": "nobody is near",
    }
    given = {"kind": "delivered", "site": "a", "why": "choice", "seconds": None}
    chosen = {**changed, "why": "choice"}
    check(
        refine(refinement_table(), arrival, changed, chosen, given, JOINED[0], alone)[3:],
        ("1 model ", "0.01 s"),
        ("a ", "100 % a"),
        None,
        ("a ",),
        None,
        ("x ", "5 images", "a and b", "nobody is near"),
    )


def test_nothing_that_a_hospital_says_steers_the_terminal() -> None:
    one, evil = rounds_table(), "\x1b[2J\x9b31mred\n"
    lines = [
        take(one, {"kind": "joined", "site": f"a{evil}", "modality": evil, "training": 4}),
        take(one, {"kind": "refused", "site": "b", "reason": evil}),
        take(one, {"kind": "note", "text": evil}),
    ]
    assert all(line is not None and "red" in line and line.isprintable() for line in lines)
    console = Console(width=200, record=True)
    console.print(one)
    assert "\x1b" not in console.export_text() and "\x9b" not in console.export_text()


def test_a_plan_shows_how_much_each_hospital_reads_and_how_many_are_done() -> None:
    """Where a hospital's status is known, the number of the case; else the number of cases."""
    status = {"b": {"doing": "taking a fingerprint", "step": 3, "steps": 9}}
    state = LiveState({"planning": "Plan"}, 0, "Dice", frozenset({"planning"}))
    table = LiveTable(state, lambda: status)
    lines = [
        take(table, event)
        for event in (
            {"kind": "joined", "site": "a", "modality": "CT", "training": 40},
            {"kind": "joined", "site": "b", "modality": "CT", "training": 9},
            {"kind": "measuring", "site": "a", "cases": 40},
            {"kind": "measuring", "site": "b", "cases": 9},
        )
    ]
    assert "40 cases" in (lines[2] or "") and "9 cases" in (lines[3] or "")
    console = Console(width=100, record=True, file=StringIO())
    console.print(table)
    shown = console.export_text()
    assert "taking a fingerprint of 40 cases (0 s)" in shown
    assert "taking a fingerprint step 3 of 9 (0 s)" in shown
    done = take(table, {"kind": "fingerprinted", "site": "b", "patients": 8, "counted": 8})
    assert "8 patients" in (done or "") and "1 of 2 hospitals" in (done or "")
