from typing import Any

import pytest
from rich.console import Console

from polyclinic.federation.events import Joined, Progress, by_kind, installed_events
from polyclinic.federation.live_state import LiveState
from polyclinic_server.runs.live_table import LiveTable, show

KINDS = by_kind(installed_events())


def take(table: LiveTable, event: dict[str, Any]) -> str | None:
    return table.handle(KINDS[event["kind"]].model_validate(event))


def board() -> LiveTable:
    return LiveTable(LiveState({"fedavg": "FedAvg"}, 2, "Dice"))


def play(one: LiveTable) -> list[str | None]:
    events = [
        {"kind": "joined", "site": "a", "modality": "T1", "training": 4},
        {"kind": "joined", "site": "b", "modality": "T2", "training": 4},
        {"kind": "arm_start", "arm": "fedavg", "title": "FedAvg", "rounds": 2, "offset": 0},
        {"kind": "asked", "phase": "train", "round": 1, "site": "a", "again": False},
        {"kind": "answered", "phase": "train", "round": 1, "site": "a", "loss": 0.5},
        {"kind": "answered", "phase": "evaluate", "round": 1, "site": "a", "score": 0.8},
        {
            "kind": "missing",
            "phase": "evaluate",
            "round": 1,
            "site": "b",
            "reason": "offline for 61 s",
        },
        {"kind": "round_end", "round": 1},
    ]
    return [take(one, event) for event in events]


def test_every_piece_of_news_is_one_line() -> None:
    said = play(board())
    assert said[0] == "a joined (T1, 4 training cases)"
    assert said[3:6] == [None, None, None]
    assert said[6] == "b is missing: offline for 61 s"
    assert str(said[7]).startswith(
        "FedAvg, round 1 of 2: loss 0.500, Dice 0.800, 1 of 2 hospitals, about "
    )


def test_the_table_shows_who_does_what_and_how_much_is_left() -> None:
    one = board()
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


def test_without_a_terminal_news_are_printed_and_nothing_else() -> None:
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured, show(board(), console) as handle:
        handle(Joined(site="[a]", modality="T1", training=1))
        handle(Progress(text="step 1"))
    assert captured.get() == "[a] joined (T1, 1 training cases)\n"


def merging_board() -> LiveTable:
    titles = {"merging-mean": "Merging (mean)", "fedavg": "FedAvg"}
    return LiveTable(LiveState(titles, 2, "Dice", frozenset({"merging-mean"}), expected=3))


def draw(one: LiveTable) -> str:
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        console.print(one)
    return captured.get()


def merge(one: LiveTable) -> list[str | None]:
    events = [
        {"kind": "joined", "site": "a", "modality": "T1", "training": 4},
        {
            "kind": "arm_start",
            "arm": "merging-mean",
            "title": "Merging (mean)",
            "rounds": 2,
            "offset": 0,
        },
        {"kind": "progress", "site": "a", "text": "training 40 %"},
        {
            "kind": "contribution",
            "site": "a",
            "digest": "d",
            "num_examples": 4,
            "staleness": 0,
            "norm": 1.0,
            "number": 1,
        },
        {"kind": "duplicate", "site": "a", "digest": "d"},
        {"kind": "published", "number": 1, "digest": "d", "sites": ["a"], "why": "arrival"},
        {"kind": "scored", "number": 1, "site": "a", "score": 0.5},
        {
            "kind": "contribution_refused",
            "site": "b",
            "digest": "d",
            "error": "NotFinite",
            "reason": "b: w contains NaN.",
        },
        {
            "kind": "contribution",
            "site": "b",
            "digest": "e",
            "num_examples": 4,
            "staleness": 1,
            "norm": 1.0,
            "number": 2,
        },
        {"kind": "withdrawn", "site": "b", "reason": "consent"},
        {"kind": "published", "number": 2, "digest": "d", "sites": ["a"], "why": "withdrawal"},
        {"kind": "resumed"},
    ]
    return [take(one, event) for event in events]


def test_without_rounds_it_counts_contributions() -> None:
    assert merge(merging_board())[1:] == [
        "Merging (mean): hospitals contribute when they can, 0 of 3 hospitals have contributed",
        None,
        "a contributed (4 training cases): 1 of 3 hospitals have contributed",
        "a handed in what was there already; it counts once",
        "model 1 is published, made of 1 contribution",
        "a scored model 1: Dice 0.500",
        "b's contribution was refused: b: w contains NaN.",
        "b contributed (4 training cases, made 1 bases ago): 2 of 3 hospitals have contributed",
        "b's contribution was withdrawn: consent",
        "model 2 is published after a withdrawal, made of 1 contribution",
        "the coordinator goes on where it stopped, 1 of 3 hospitals have contributed",
    ]


def test_the_head_line_of_a_merging_arm_has_no_rounds_and_no_time_left() -> None:
    one = merging_board()
    merge(one)
    take(one, {"kind": "progress", "site": "b", "text": "training 40 %"})
    text = draw(one)
    assert "Merging (mean) (1 of 2), 1 of 3 hospitals have contributed" in text
    assert "training 40 %" in text
    assert "round" not in text
    assert "left" not in text
    assert one.state.share == pytest.approx(1 / 7), (
        "one contribution of three contributions, a test, two rounds and another test"
    )


def test_after_a_merging_arm_rounds_have_their_pace_again() -> None:
    one = merging_board()
    merge(one)
    said = take(one, {"kind": "arm_end", "arm": "merging-mean"})
    assert said == "Merging (mean): 1 of 3 hospitals have contributed, Dice 0.500"
    assert one.state.share == pytest.approx(4 / 7)
    take(one, {"kind": "arm_start", "arm": "fedavg", "title": "FedAvg", "rounds": 2, "offset": 0})
    take(one, {"kind": "answered", "phase": "train", "round": 1, "site": "a", "loss": 0.5})
    assert "about 0 s left" in str(take(one, {"kind": "round_end", "round": 1}))
    assert one.state.share == pytest.approx(5 / 7)


def test_a_restarted_coordinator_knows_who_contributed_and_how_many_are_expected() -> None:
    one = LiveTable(LiveState({"m": "Merging"}, 0, "Dice", frozenset({"m"})))
    take(
        one,
        {
            "kind": "arm_start",
            "arm": "m",
            "title": "Merging",
            "rounds": 0,
            "offset": 0,
            "expected": 4,
        },
    )
    take(one, {"kind": "published", "number": 2, "digest": "d", "sites": ["a", "b"]})
    assert "2 of 4 hospitals have contributed" in draw(one)


def test_the_score_of_another_model_is_not_the_strategy_s() -> None:
    one = merging_board()
    merge(one)
    take(
        one,
        {
            "kind": "answered",
            "phase": "evaluate.test",
            "arm": "random",
            "round": 2,
            "site": "a",
            "score": 0.01,
        },
    )
    take(
        one,
        {
            "kind": "answered",
            "phase": "evaluate",
            "arm": "merging-mean",
            "round": 2,
            "site": "a",
            "score": 0.6,
        },
    )
    assert one.state.rows["a"].score == 0.6
    assert one.state.rows["a"].doing == "scored model 2"


def refine(one: LiveTable, *events: dict[str, Any]) -> list[str | None]:
    first = [
        {"kind": "joined", "site": "a", "modality": "T1", "mode": "train", "training": 4},
        {"kind": "joined", "site": "x", "modality": "T2", "mode": "describe", "training": 0},
        {
            "kind": "arm_start",
            "arm": "refinement",
            "title": "Refinement",
            "rounds": 2,
            "offset": 0,
            "expected": 1,
        },
    ]
    return [take(one, event) for event in (*first, *events)]


def refinement_board() -> LiveTable:
    return LiveTable(LiveState({"refinement": "Refinement"}, 2, "Dice", frozenset({"refinement"})))


def traffic(why: str, site: str, **others: int) -> dict[str, Any]:
    moved = {
        name: {"query.collect": 100, "query.refined": count}
        for name, count in {"a": 0, **others}.items()
    }
    return {"kind": "traffic", "why": why, "site": site, "bytes": moved}


JOINED = (
    {"kind": "described", "site": "x", "subjects": 5, "statistic": "average_image", "seconds": 0.1},
    {
        "kind": "refined",
        "site": "x",
        "why": "join",
        "coefficients": {"b": 0.19, "a": 0.81},
        "nearest": "a",
        "distance": 0.4,
        "fallback": "",
    },
    {"kind": "delivered", "site": "x", "why": "join", "seconds": 0.323},
)
LEFT = {
    "kind": "recalculated",
    "why": "withdrawal",
    "sites": ["a", "x"],
    "gone": ["b"],
    "seconds": 0.05,
}


def test_a_newcomer_s_story_is_told_in_two_lines() -> None:
    assert refine(refinement_board(), *JOINED, traffic("join", "x", x=40_000))[1:] == [
        "x joined (T2, with a description alone)",
        "Refinement: hospitals contribute when they can, 0 of 1 hospitals have contributed",
        None,
        "x joined with a description of 5 images; its model is 81 % a, 19 % b",
        "x has its model after 0.32 s",
        None,
    ]


def test_who_only_describes_itself_is_not_expected_to_contribute() -> None:
    one = refinement_board()
    refine(one)
    one.state.expected = 0
    assert "0 of 1 hospitals have contributed" in draw(one)


def test_beside_each_hospital_is_where_its_model_is() -> None:
    one = refinement_board()
    refine(one)
    doing = [(take(one, event), one.state.rows["x"].doing)[1] for event in JOINED]
    assert doing == ["described 5 images", "its model is on its way", "has its model"]
    take(one, LEFT)
    assert one.state.rows["b"].doing == "left"


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        (
            traffic("withdrawal", "b", b=0),
            "b left; 2 models recalculated in 0.05 s, nobody else moved a byte",
        ),
        (
            traffic("withdrawal", "b", x=1200),
            "b left; 2 models recalculated in 0.05 s, others moved too: x 1.2 kB",
        ),
    ],
)
def test_a_departure_is_told_once_it_is_known_who_noticed(moved: dict[str, Any], said: str) -> None:
    assert refine(refinement_board(), LEFT, moved)[3:] == [None, said]


def test_whoever_moves_bytes_for_another_hospital_is_named() -> None:
    assert refine(refinement_board(), traffic("join", "x", a=7, x=40_000))[3:] == [
        "for x others sent or received too: a 7 B"
    ]


def test_a_change_and_a_fallback_in_words() -> None:
    changed = {
        "kind": "refined",
        "site": "a",
        "why": "update",
        "coefficients": {"a": 1.0},
        "fallback": "",
    }
    chosen = {
        "kind": "refined",
        "site": "a",
        "why": "choice",
        "coefficients": {"a": 1.0},
        "fallback": "",
    }
    alone = {
        "kind": "refined",
        "site": "x",
        "why": "join",
        "coefficients": {"a": 0.5, "b": 0.5},
        "fallback": "nobody is near",
    }
    arrival = {
        "kind": "recalculated",
        "why": "arrival",
        "sites": ["a"],
        "gone": [],
        "seconds": 0.01,
    }
    given = {"kind": "delivered", "site": "a", "why": "choice", "seconds": None}
    assert refine(refinement_board(), arrival, changed, chosen, given, JOINED[0], alone)[3:] == [
        "1 model recalculated in 0.01 s",
        "a handed in a contribution; its model is 100 % a",
        None,
        "a has its model",
        None,
        "x joined with a description of 5 images; its model is equal shares of a and b (nobody is near)",
    ]
