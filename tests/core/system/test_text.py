"""What the other side says is printable before it reaches a terminal."""

from pathlib import Path

import pytest
import typer
from rich.console import Console

from polyclinic.errors import RunError
from polyclinic.federation.run_folder import RunFolder
from polyclinic.security.admission_errors import KeyOfAnother, unpack_refusal
from polyclinic.system.exit_codes import run_command
from polyclinic.system.text import LINE_CHARACTERS, clean, clean_lines, first_line, parse_json
from polyclinic_server.runs.status import status_table

EVIL = "\x1b[2J\x07red\x9b31m\x00"


def is_harmless(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


def test_control_characters_are_replaced_and_lines_stay() -> None:
    assert is_harmless(clean(EVIL)) and "red" in clean(EVIL)
    assert clean_lines(f"a\n{EVIL}\nb").split("\n") == ["a", clean(EVIL), "b"]


def test_a_refusal_holds_no_control_characters_on_either_side() -> None:
    sent = KeyOfAnother(key="k", site="a", claimed=EVIL)
    assert is_harmless(str(sent)) and is_harmless(sent.told())
    packed = (
        f'{{"polyclinic": "other-site", "claimed": "{EVIL.encode("unicode_escape").decode()}"}}'
    )
    packed = packed.replace("\\x", "\\u00")
    heard = unpack_refusal(packed.replace("}", ', "key": "k", "site": "s"}'))
    assert heard is not None and "red" in str(heard) and is_harmless(str(heard))


def test_an_error_that_ends_a_command_is_harmless(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise RunError(f"b was refused: {EVIL}")

    monkeypatch.setattr("sys.argv", ["polyclinic-server"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit):
        run_command(app)
    said = capsys.readouterr().err
    assert "b was refused" in said and is_harmless(said)


def test_the_table_of_runs_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    RunFolder(tmp_path / "one").update(
        state=f"failed{EVIL}", reason=EVIL, arms=[{"title": EVIL}], hospitals={}
    )
    console = Console(width=200, record=True)
    console.print(status_table(tmp_path))
    shown = console.export_text()
    assert "red" in shown and is_harmless(shown)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff", "9" * 5000])
def test_what_is_no_json_is_a_wrong_value(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(text)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (MemoryError(), "MemoryError"),
        (ValueError("a" * 10**6), "a" * LINE_CHARACTERS),
    ],
)
def test_the_first_line_of_an_error_is_bounded(error: Exception, line: str) -> None:
    assert first_line(error) == line
