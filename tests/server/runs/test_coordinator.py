"""The beginning of `polyclinic-server run`: what is refused before anything is made."""

import io
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from polyclinic.errors import ConfigError, StatisticInvalid
from polyclinic.federation.run_folder import list_runs
from polyclinic.system.processes import free_port
from polyclinic_server.cli.main import settings
from polyclinic_server.runs import app
from polyclinic_server.runs.coordinator import create_run, run
from tests.plugins import Installer

TYPO = ["strategy=refinement", "strategy.statistics=[typo]"]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (TYPO, r"^strategy\.statistics=\['typo'\]: only .*histogram exist\."),
        (["strategy=averaging/fedavg,refinement", "rounds=2", "strategy.base_rounds=2"], r"^strat"),
    ],
)
def test_a_strategy_that_cannot_be_made_leaves_no_folder(
    wrong: list[str], text: str, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    asked = [*wrong, f"deployment.runs={runs}", "deployment.insecure=true"]
    with pytest.raises(ConfigError, match=text):
        run(asked, None, None, Console(quiet=True))
    assert not runs.exists()


def test_a_run_that_lets_nobody_in_leaves_no_folder_and_a_resumed_one_keeps_its_own(
    tmp_path: Path,
) -> None:
    runs, quiet = tmp_path / "runs", Console(quiet=True)
    asked = [f"deployment.runs={runs}", f"deployment.security={tmp_path / 'nowhere'}"]
    with pytest.raises(ConfigError, match="polyclinic-server init"):
        run(asked, "new", None, quiet)
    assert list_runs(runs) == []
    kept, _ = create_run(asked, "old")
    kept.update(state="interrupted")
    with pytest.raises(ConfigError, match="polyclinic-server init"):
        run(asked, None, "old", quiet)
    assert kept.describe()["state"] == "failed"


def test_a_folder_that_was_removed_stays_removed(tmp_path: Path) -> None:
    folder, _ = create_run([f"deployment.runs={tmp_path}"], "x")
    folder.update(state="waiting")
    shutil.rmtree(folder.path)
    folder.end(KeyboardInterrupt())
    assert not folder.path.exists()


def test_settings_refuse_statistics_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"^strategy\.statistics=\['typo'\]: only"):
        settings(TYPO)
    assert not capsys.readouterr().out


def test_settings_refuse_a_statistic_that_cannot_be_loaded(installer: Installer) -> None:
    offers = {"polyclinic.statistics": {"toy": "polyclinic_nowhere:Toy"}}
    installer.install("polyclinic-nowhere", "1.0", offers, {})
    with pytest.raises(StatisticInvalid, match=r"polyclinic-nowhere.*No module named"):
        settings([])


@pytest.mark.parametrize("mirroring", ["auto", "on"])
def test_a_run_says_that_labels_of_sides_are_not_mirrored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirroring: str
) -> None:
    asked = [
        f"deployment.runs={tmp_path}",
        "deployment.insecure=true",
        "deployment.host=127.0.0.1",
        f"deployment.port={free_port()}",
        "data.labels=[background,left kidney,right kidney]",
        f"data.mirroring={mirroring}",
    ]
    monkeypatch.setattr(app, "make_coordinator", lambda _config: Mock())
    told = io.StringIO()
    folder = run(asked, "x", None, Console(file=told, width=500))
    about = [
        event
        for event in folder.events()
        if event.kind == "note" and "data.mirroring=on" in str(event.to_line())
    ]
    assert len(about) == (mirroring == "auto")
    assert ("left kidney" in told.getvalue()) == (mirroring == "auto")
