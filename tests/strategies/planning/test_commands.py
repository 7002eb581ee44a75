"""`polyclinic-server plan` in this process: from folders, and through the coordinator's `run`."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from polyclinic.config.plan_files import Plan, read_plan, write_plan
from polyclinic.simulation import sides
from polyclinic_strategies.planning import commands
from tests.server.cli.commands import Run
from tests.server.conftest import run_cli  # noqa: F401
from tests.strategies.planning.folders import LABELS, Case, write_pictures, write_site


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path / "site", [Case((40, 40, 24), (1.0, 1.0, 1.0))] * 3)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "plan.yaml"


def ended_plainly(ran: subprocess.CompletedProcess[str], code: int, *named: str) -> None:
    assert ran.returncode == code, ran.stderr
    assert [word for word in named if word not in ran.stderr] == []
    assert "Traceback" not in ran.stdout + ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_folder_is_planned_and_the_table_tells_why(
    run_cli: Run,  # noqa: F811
    site: Path,
    plan: Path,
) -> None:
    ran = run_cli("plan", "--data", str(site))
    assert ran.returncode == 0, ran.stderr
    made = read_plan(plan)
    assert made.settings["data.labels"] == list(LABELS)
    assert made.settings["data.modality"] == ["MR"]
    for words in ("what", "value", "why", "data.patch", "40, 40, 24", "data=plan.yaml"):
        assert words in ran.stdout
    shown = run_cli("settings", f"data={plan}", "model=dynunet", "training=nnunet")
    assert made.digest in shown.stdout and "- 24" in shown.stdout


def test_a_file_is_replaced_only_if_that_is_said(
    run_cli: Run,  # noqa: F811
    site: Path,
    plan: Path,
) -> None:
    plan.write_text("mine")
    ended_plainly(run_cli("plan", "--data", str(site)), 2, "plan.yaml", "--force", "--out")
    assert plan.read_text() == "mine"
    assert run_cli("plan", "--data", str(site), "--force").returncode == 0
    assert read_plan(plan)
    other = plan.with_name("other.yaml")
    options = ("--memory-gb", "2", "--dimensions", "2", "--residual", "--out", str(other))
    assert run_cli("plan", "--data", str(site), *options, "data.orientation=LPS").returncode == 0
    made = read_plan(other)
    assert made.data == "planned_2d" and made.settings["model.residual"] is True
    assert made.settings["data.orientation"] == "LPS" and made.memory_gb <= 2


def test_several_folders_are_planned_together(
    run_cli: Run,  # noqa: F811
    site: Path,
    plan: Path,
    tmp_path: Path,
) -> None:
    other = shutil.copytree(site, tmp_path / "other")
    assert run_cli("plan", "--data", str(site), "--data", str(other)).returncode == 0
    assert read_plan(plan).fingerprint["patients"] == 6
    pictures = write_pictures(tmp_path / "pictures", 3)
    ran = run_cli("plan", "--data", str(site), "--data", str(pictures), "--force")
    ended_plainly(ran, 3, "dataset.json")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--data", "nowhere"), 3, ("nowhere",)),
        (("--memory-gb", "0", "--data", "SITE"), 2, ("memory_gb",)),
        (("--memory-gb", "0.0001", "--data", "SITE"), 2, ("memory_gb",)),
        (("strategy=averaging/fedavg",), 2, ("strategy",)),
        (("data=segmentaton", "--data", "SITE"), 2, ("segmentation",)),
        (("data=classification_2d", "--data", "SITE"), 2, ("segmentation",)),
        (("data=classification_2d", "training=classification", "--insecure"), 2, ("segmentation",)),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    run_cli: Run,  # noqa: F811
    site: Path,
    plan: Path,
    arguments: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
) -> None:
    given = [str(site) if each == "SITE" else each for each in arguments]
    ended_plainly(run_cli("plan", *given), code, *words)
    assert not plan.exists()


def test_hospitals_are_asked_as_a_run_asks_them(
    run_cli: Run,  # noqa: F811
    plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    wanted = Plan(data="planned", settings={"data.patch": [16, 16, 16]})

    class Folder:
        path = tmp_path / "run"

    def run(settings: list[str], *others: object) -> Folder:
        asked.append(settings)
        write_plan(wanted, Folder.path / "arms" / "planning" / "plan.yaml")
        return Folder()

    monkeypatch.setattr(sides, "load_side", {"run": run}.__getitem__)
    own = ["data=segmentation", "data.labels=[background,tumour]", "deployment.hospitals=3"]
    ran = run_cli("plan", "--insecure", "--memory-gb", "4", "--dimensions", "2", *own)
    assert ran.returncode == 0, ran.stderr
    (settings,) = asked
    for each in (*own, *commands.LIGHT, "strategy=planning", "deployment.insecure=true"):
        assert each in settings
    assert {"strategy.memory_gb=4.0", "strategy.dimensions=2"} <= set(settings)
    assert read_plan(plan).settings == wanted.settings
