"""How a command line begins and ends."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("umask", ["0o022", "0o000", "0o077"])
def test_what_a_command_writes_is_its_users_alone(tmp_path: Path, umask: str) -> None:
    command = [sys.executable, "-c", PROGRAM.replace("{umask}", umask), str(tmp_path)]
    subprocess.run(command, check=True)
    written = sorted((tmp_path / "state").iterdir())
    assert [path.name for path in written] == ["log", "picture.png"]
    for path in (tmp_path / "state", *written):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
