import time
from pathlib import Path

import pytest
from rich.table import Table

from polyclinic.system.console import LineConsole, never_silent


def test_a_sentence_with_a_long_path_is_one_line_and_a_table_keeps_to_the_width(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console, path = LineConsole(), Path("/folder" * 40) / "file with spaces"
    console.print(f"look at {path}", markup=False)
    table = Table("words")
    table.add_row("word " * 60)
    console.print(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"look at {path}"
    assert len(lines) > 4 and max(map(len, lines[1:])) <= console.width


def test_who_watches_hears_again_what_is_at_work() -> None:
    heard: list[str] = []
    with never_silent(heard.append, every_s=0.05) as tell:
        tell("training")
        deadline = time.monotonic() + 5
        while len(heard) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert heard[0] == "training" and len(heard) >= 3
    assert all(line.endswith("since: training") for line in heard[1:])
    after = len(heard)
    time.sleep(0.15)
    assert len(heard) == after
