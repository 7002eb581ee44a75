"""What a person sees while another process works."""

import io
from pathlib import Path

from rich.console import Console

from polyclinic_demos.progress import following


def test_every_new_line_of_a_log_is_told_once_and_harmlessly(tmp_path: Path) -> None:
    log, shown = tmp_path / "work.log", io.StringIO()
    console = Console(file=shown, force_terminal=False, width=80)
    with following(console, "making the base", log) as look:
        look()
        for text in ("pass 1 of 2\n", "", "[bold]pass 2\x1b[31m of 2\n"):
            with log.open("a") as file:
                file.write(text)
            look()
    told = shown.getvalue()
    assert told.count("pass 1 of 2") == 1
    assert told.count("[bold]pass 2") == 1 and "\x1b" not in told
