"""Commands of a coordinator that stays up, where none is up."""

from pathlib import Path

import pytest

from polyclinic.errors import ConfigError, RunError
from tests.server.cli.commands import Run


@pytest.mark.parametrize("command", ["follow", "stop", "resume"])
def test_without_a_service_there_is_nothing_to_ask(
    command: str, run_cli: Run, tmp_path: Path
) -> None:
    ended = run_cli(command, "latest", "--runs", str(tmp_path))
    assert ended.returncode == RunError.exit_code
    assert "polyclinic-server serve" in ended.stderr and str(tmp_path) in ended.stderr
    assert ("run --resume" in ended.stderr) == (command == "resume")


def test_a_service_has_settings_of_the_deployment_alone(run_cli: Run) -> None:
    ended = run_cli("serve", "rounds=2")
    assert ended.returncode == ConfigError.exit_code and "rounds=2" in ended.stderr


def test_a_service_needs_keys_or_says_that_it_has_none(run_cli: Run, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    asked = (f"deployment.security={nowhere}", f"deployment.runs={tmp_path / 'runs'}")
    ended = run_cli("serve", *asked)
    assert ended.returncode == ConfigError.exit_code and "polyclinic-server init" in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_the_state_of_runs_is_shown_without_a_service(run_cli: Run, tmp_path: Path) -> None:
    ended = run_cli("status", "--runs", str(tmp_path))
    assert ended.returncode == 0 and "none yet" in ended.stdout
    assert "hospitals of the service" not in ended.stdout
