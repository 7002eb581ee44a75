from pathlib import Path

import pytest
from rich.table import Table

from polyclinic.system.console import LineConsole


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
