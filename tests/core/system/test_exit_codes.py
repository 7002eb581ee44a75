"""How a command line begins and ends: by signals, and on machines where it cannot run."""

import os
import platform
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from polyclinic.system.exit_codes import run_command

PROGRAM = """
import os, pathlib, subprocess, sys
import typer
from polyclinic.system.exit_codes import run_command

app = typer.Typer()

@app.command()
def write(folder: pathlib.Path) -> None:
    (folder / "state").mkdir()
    (folder / "state" / "picture.png").write_text("")
    subprocess.run([sys.executable, "-c", "open('state/log', 'a')"], cwd=folder, check=True)

os.umask({umask})
run_command(app)
"""
WAIT = """
import sys, time, typer
from polyclinic.system.exit_codes import run_command
app = typer.Typer()
@app.command()
def wait():
    sys.stdout.write("up\\n")
    sys.stdout.flush()
    time.sleep(60)
run_command(app)
"""


@pytest.mark.parametrize("umask", ["0o022", "0o000", "0o077"])
def test_what_a_command_writes_is_its_users_alone(tmp_path: Path, umask: str) -> None:
    command = [sys.executable, "-c", PROGRAM.replace("{umask}", umask), str(tmp_path)]
    subprocess.run(command, check=True)
    written = sorted((tmp_path / "state").iterdir())
    assert [path.name for path in written] == ["log", "picture.png"]
    for path in (tmp_path / "state", *written):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_also_where_a_shell_had_it_ignored(number: signal.Signals) -> None:
    script = 'trap "" INT TERM; exec "$0" -c "$1"'  # as a shell does for what runs in background
    with subprocess.Popen(
        ["/bin/sh", "-c", script, sys.executable, WAIT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in said


def app_that(raises: Exception | None) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        if raises is not None:
            raise raises

    return app


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No arguments, and no handler of a signal left behind."""
    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.usefixtures("alone")
def test_windows_is_told_what_to_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    with pytest.raises(SystemExit) as ended:
        run_command(app_that(None))
    assert ended.value.code == 6
    said = capsys.readouterr().err
    assert "Docker" in said and "Subsystem for Linux" in said


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("error", "code", "named"),
    [
        (PermissionError(13, "Permission denied", "/state/lock"), 6, "/state/lock"),
        (MemoryError(), 6, "memory"),
        (KeyError("x"), 1, "inside polyclinic"),
    ],
)
def test_a_fault_of_the_machine_has_its_own_exit_code_and_a_log(
    error: Exception,
    code: int,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        run_command(app_that(error))
    (log,) = tmp_path.glob("polyclinic-*.log")
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert named in said and str(log) in said
    assert type(error).__name__ in log.read_text()
