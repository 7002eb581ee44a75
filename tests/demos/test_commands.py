"""Commands of the demos: names, panel, and what is refused before anything starts."""

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from polyclinic.errors import ConfigError, PolyclinicError, ResourceError
from polyclinic.system.commands import DEMOS, add_installed_commands
from polyclinic_demos import commands

COMMANDS = ["demo", "demo-full", "demo-merging", "demo-proxy"]


def refusal(*arguments: str) -> PolyclinicError:
    error = CliRunner().invoke(commands.app, arguments).exception
    assert isinstance(error, PolyclinicError), error
    return error


def test_every_demo_is_a_command_in_a_panel_of_its_own() -> None:
    registered = commands.app.registered_commands
    named = [each.name or each.callback.__name__ for each in registered if each.callback]
    assert named == COMMANDS
    assert {each.rich_help_panel for each in registered} == {DEMOS}


def test_the_coordinators_command_line_finds_them_by_their_entry_point() -> None:
    app = typer.Typer()
    add_installed_commands(app)
    assert set(COMMANDS) <= set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command: str) -> None:
    shown = CliRunner().invoke(commands.app, [command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "--folder" in shown.output and "--seed" in shown.output


@pytest.mark.parametrize("command", COMMANDS)
def test_without_nilearn_no_demo_starts(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = commands.find_spec

    def without(name: str) -> ModuleSpec | None:
        return None if name == "nilearn" else found(name)

    monkeypatch.setattr(commands, "find_spec", without)
    error = refusal(command, "--folder", str(tmp_path / "demo"))
    assert isinstance(error, ConfigError) and "polyclinic[demos]" in str(error)
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_a_folder_that_cannot_be_written_is_named(command: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    error = refusal(command, "--folder", str(tmp_path / "taken"))
    assert isinstance(error, ResourceError)
    assert str(tmp_path / "taken") in str(error) and "--folder" in str(error)


@pytest.mark.parametrize("command", ["demo", "demo-full"])
def test_a_demo_compares_its_own_strategies(command: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "demo")
    error = refusal(command, "--folder", folder, "strategy=averaging/fedprox")
    assert isinstance(error, ConfigError) and "polyclinic-server run" in str(error)


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_a_wrong_setting_is_refused_before_any_image_is_written(
    command: str, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    error = refusal(command, "--folder", str(folder), "training.batch_size=none")
    assert isinstance(error, ConfigError)
    assert not (folder / "data").exists()


def test_a_cohort_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    error = refusal("demo-merging", "--folder", str(tmp_path), "--cohort", "teeth")
    assert isinstance(error, ConfigError) and "teeth" in str(error)
