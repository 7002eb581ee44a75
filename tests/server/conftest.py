"""The console script in this process; a new process per command would take minutes."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from polyclinic_server.cli import enrol as enrol_cli
from polyclinic_server.cli import ledger as ledger_cli
from polyclinic_server.cli.main import main
from tests.server.cli.commands import Run


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run `polyclinic-server`."""
    before = signal.getsignal(signal.SIGTERM)
    for module in (enrol_cli, ledger_cli):
        monkeypatch.setattr(module.console, "width", 200)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["polyclinic-server", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(
            arguments, int(ended.value.code or 0), said.out, said.err
        )

    yield run
    signal.signal(signal.SIGTERM, before)
