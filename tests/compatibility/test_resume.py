"""Unfinished runs of version 0.1.0 are taken up, by hospitals with its kits and its state."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from polyclinic.store.ledger import Ledger
from polyclinic.system.processes import Child, free_port, python_module, stop_all
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort
from tests.compatibility.conftest import Run
from tests.compatibility.kept import SITES, V010, said

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nursed")]
WAIT_S = 400.0
Resume = Callable[[str], Path]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the two hospitals, as `make_files.py` wrote them."""
    folder = tmp_path_factory.mktemp("images")
    coarse = [replace(scanner, voxel_mm=(8.0, 8.0, 9.0)) for scanner in HOSPITALS[:2]]
    write_cohort(folder, sites=2, subjects=(2, 1, 1), seed=7, scanners=coarse)
    return folder


@pytest.fixture
def resume(kept: Path, images: Path, run: Run) -> Iterator[Resume]:
    """Take up a run with both hospitals, to its end; its certificate may be too old by now."""
    renewed = run("polyclinic-server", "init", "--renew", "--folder", kept / "security")
    assert renewed.returncode == 0, renewed.stderr
    for site in SITES:
        listed = (kept / "data" / site / "dataset.json").read_text()
        shutil.copytree(images / site, kept / "data" / site, dirs_exist_ok=True)
        (kept / "data" / site / "dataset.json").write_text(listed)
    shutil.copyfile(kept / "runs/fedavg/arms/fedavg/model.safetensors", "base.safetensors")
    started: list[Child] = []

    def take_up(name: str) -> Path:
        port = free_port()
        begin = python_module(
            "polyclinic_server.cli.main", "run", "--resume", name, f"deployment.port={port}",
            "deployment.runs=runs", "deployment.security=security",
        )  # fmt: skip
        coordinator = Child("coordinator", begin, kept / "coordinator.log")
        for site in SITES:
            kit = f"keys/{site}/{site}.kit.json"
            join = python_module(
                "polyclinic_client.cli.main", "join", "--kit", kit, "--data", f"data/{site}",
                "--state", f"states/{site}", "--server", f"127.0.0.1:{port}", "--wait", "200",
            )  # fmt: skip
            started.append(Child(site, join, kept / f"{site}.log"))
        started.append(coordinator)
        for child in started:
            child.start()
        status = coordinator.wait(WAIT_S)
        assert status == 0, coordinator.log.read_text()[-3000:]
        return kept / "runs" / name

    yield take_up
    stop_all(started, 12.0)


def events(folder: Path, kind: str) -> list[dict[str, object]]:
    lines = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def figures(folder: Path) -> dict[tuple[object, ...], float]:
    """Loss and score of every answer, by phase, round, site and figure."""
    return {
        (event["phase"], event["round"], event["site"], name): float(str(event[name]))
        for event in events(folder, "answered")
        for name in ("loss", "score")
        if event.get(name) is not None
    }


def test_rounds_go_on_after_the_last_one_that_ended(resume: Resume) -> None:
    folder = resume("interrupted-fedavg")
    assert [event["round"] for event in events(folder, "round_end")] == [1, 2, 3]
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"
    # a bias before a normalization learns from rounding errors alone: figures are compared
    undisturbed, resumed = figures(V010 / "runs" / "fedavg"), figures(folder)
    assert undisturbed.keys() == resumed.keys()
    assert resumed == pytest.approx(undisturbed, rel=1e-3)
    weights = "arms/fedavg/model.safetensors"
    ours, theirs = load_file(folder / weights), load_file(V010 / "runs" / "fedavg" / weights)
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    assert (folder / "report.html").exists()


def test_a_contribution_that_waited_in_an_outbox_is_handed_over(resume: Resume) -> None:
    (waiting,) = (V010 / "states" / "spgr-1.5t" / "outbox").glob("*.safetensors")
    folder = resume("interrupted-merging")
    came = {event["site"]: event["digest"] for event in events(folder, "contribution")}
    assert set(came) == set(SITES) and came["spgr-1.5t"] == waiting.stem
    with Ledger.open(folder / "ledger", create=False) as ledger:
        assert ledger.verify() is None
        assert ledger.publications()[-1].digest == said("undisturbed")
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"
