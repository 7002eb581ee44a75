"""A hospital's client is healthy while it runs and the coordinator has let it in."""

import subprocess
import sys
from pathlib import Path

import pytest

from polyclinic.system.processes import lock_file
from polyclinic_client.fleet.join import only_client
from polyclinic_client.site.health import is_admitted, main
from polyclinic_client.site.status import CONNECTED, CONNECTION, LOST, StatusFile


def say(state: Path, doing: str) -> None:
    StatusFile(state / CONNECTION).write(doing, {}, force=True)


def test_only_a_client_that_is_connected_and_alive_is_admitted(tmp_path: Path) -> None:
    assert not is_admitted(tmp_path)
    with only_client(tmp_path):
        assert not is_admitted(tmp_path)  # it runs, and looks for the coordinator
        say(tmp_path, CONNECTED)
        assert is_admitted(tmp_path)
        say(tmp_path, LOST)
        assert not is_admitted(tmp_path)
        say(tmp_path, CONNECTED)
    assert not is_admitted(tmp_path)  # it was killed before it could say more


def test_a_client_that_starts_again_is_not_taken_for_the_killed_one(tmp_path: Path) -> None:
    say(tmp_path, CONNECTED)
    with only_client(tmp_path):
        assert not is_admitted(tmp_path)


def test_looking_leaves_the_lock_to_a_client(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    say(tmp_path, CONNECTED)
    assert not is_admitted(tmp_path)
    with lock_file(tmp_path / "lock") as mine:
        assert mine


def test_a_state_folder_may_lie_in_the_folder_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([tmp_path / "missing", tmp_path]) == 1
    assert capsys.readouterr().out == "not admitted\n"
    with only_client(tmp_path / "st-mary"):
        say(tmp_path / "st-mary", CONNECTED)
        assert main([tmp_path]) == 0
    assert capsys.readouterr().out == "admitted\n"


def test_looking_needs_neither_torch_nor_flower() -> None:
    code = (
        "import sys, polyclinic_client.site.health;"
        " sys.exit(bool({'torch', 'flwr', 'grpc'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
