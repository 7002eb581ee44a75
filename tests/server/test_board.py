from rich.console import Console

from server.board import Board, show


def board() -> Board:
    return Board({"fedavg": "FedAvg"}, 2, "Dice")


def play(one: Board) -> list[str | None]:
    events = [
        {"kind": "joined", "site": "a", "modality": "T1", "training": 4},
        {"kind": "joined", "site": "b", "modality": "T2", "training": 4},
        {"kind": "arm_start", "arm": "fedavg", "title": "FedAvg", "rounds": 2, "offset": 0},
        {"kind": "asked", "phase": "train", "round": 1, "site": "a", "again": False},
        {"kind": "answered", "phase": "train", "round": 1, "site": "a", "loss": 0.5},
        {"kind": "answered", "phase": "evaluate", "round": 1, "site": "a", "score": 0.8},
        {"kind": "missing", "phase": "evaluate", "round": 1, "site": "b", "reason": "offline for 61 s"},
        {"kind": "round_end", "round": 1},
    ]
    return [one.handle(event) for event in events]


def test_every_piece_of_news_is_one_line() -> None:
    said = play(board())
    assert said[0] == "a joined (T1, 4 training cases)"
    assert said[3:6] == [None, None, None]
    assert said[6] == "b is missing: offline for 61 s"
    assert str(said[7]).startswith("FedAvg, round 1 of 2: loss 0.500, Dice 0.800, 1 of 2 hospitals, about ")


def test_the_table_shows_who_does_what_and_how_much_is_left() -> None:
    one = board()
    play(one)
    one.handle({"kind": "asked", "phase": "train", "round": 2, "site": "a", "again": False})
    console = Console(width=100, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(one)
    text = captured.get()
    assert "FedAvg (1 of 1), round 2 of 2" in text
    assert "training (0 s)" in text
    assert "left" in text
    assert 0.0 < one.share < 1.0


def test_without_a_terminal_news_are_printed_and_nothing_else() -> None:
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured, show(board(), console) as handle:
        handle({"kind": "joined", "site": "[a]", "modality": "T1", "training": 1})
        handle({"kind": "progress", "text": "step 1"})
    assert captured.get() == "[a] joined (T1, 1 training cases)\n"
