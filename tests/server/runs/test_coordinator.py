"""The beginning of `polyclinic-server run`: what is refused before anything is made."""

import io
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from polyclinic.config.plan_files import Plan, read_plan, write_plan
from polyclinic.errors import ConfigError, StatisticInvalid
from polyclinic.federation.jobs import describe_run
from polyclinic.federation.run_folder import list_runs
from polyclinic.system.processes import free_port
from polyclinic_server.cli.main import settings
from polyclinic_server.runs import app
from polyclinic_server.runs.coordinator import create_run, resume_run, run
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


def test_a_run_keeps_its_plan_and_resumes_without_the_file(tmp_path: Path) -> None:
    path, runs = tmp_path / "my plan.yaml", f"deployment.runs={tmp_path / 'runs'}"
    settings = {"data.patch": [32, 32, 16], "training.batch_size": 3, "model.features": 2}
    plan = write_plan(Plan(data="planned", settings=settings), path)
    asked = [f"data={path}", "model=dynunet", "training=nnunet", "model.most_features=4", runs]
    folder, before = create_run([*asked, "strategy=averaging/fedavg,averaging/local"], "planned")
    describe_run(folder, before, state="waiting")
    assert read_plan(folder.path / "plan.yaml") == plan
    path.unlink()
    resumed, after = resume_run("planned", [runs])
    assert after == before and len(after) == 2
    assert after[0].data.patch == (32, 32, 16) and after[0].training.batch_size == 3
    found = resumed.state().plan
    assert found is not None and (found.name, found.digest) == ("my plan.yaml", plan.digest)
    other, _ = create_run(["model=unet", runs], "plain")
    assert not (other.path / "plan.yaml").exists()


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
