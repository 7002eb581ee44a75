"""A copy of the kept files for every test, and the commands of both sides in this process."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polyclinic_client.cli import main as client_cli
from polyclinic_server.cli import main as server_cli
from tests.compatibility.kept import copy_files, module_consoles

Run = Callable[..., subprocess.CompletedProcess[str]]
SIDES = {"polyclinic-server": server_cli.main, "polyclinic-client": client_cli.main}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the files into the working folder: their settings name some of them from there."""
    folder = copy_files(tmp_path / "kept")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Call commands of both sides in this process; a new one for each would take minutes."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("COLUMNS", "200")
    for console in module_consoles():
        monkeypatch.setattr(console, "width", 200)

    def call(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        words = [command, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            SIDES[command]()
        told = capsys.readouterr()
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), told.out, told.err)

    yield call
    signal.signal(signal.SIGTERM, before)
