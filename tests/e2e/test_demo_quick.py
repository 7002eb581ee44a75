"""The newcomers' demo as a process, with a tiny network: its figures, its report, and Ctrl-C."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from polyclinic_demos.quick import NEWCOMER, SITES
from tests.processes import run_cli

pytestmark = pytest.mark.e2e
SMALL = (
    "rounds=2",
    "training.epochs=1",
    "model.channels=[4,8]",
    "model.strides=[2]",
    "data.spacing_mm=[6.0,6.0,6.0]",
    "data.patch=[24,32]",
    "data.samples_per_case=4",
)
LIMIT_S = 900.0


@dataclass(frozen=True)
class Ended:
    """A demo that ran to its end."""

    folder: Path
    run: Path
    printed: str


def started_in(folder: Path) -> list[psutil.Process]:
    """List the processes whose commands name a folder, or that have a file open there."""
    found = []
    for process in psutil.process_iter():
        try:
            files = [file.path for file in process.open_files()]
            if any(str(folder) in word for word in (*process.cmdline(), *files)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def begin(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "polyclinic_server.cli.main", "demo"]
    return [*command, "--folder", str(folder), *SMALL]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("demo")
    _, _, module, *arguments = begin(folder)
    done = run_cli(module, *arguments, timeout_s=LIMIT_S)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Ended(folder, Path((folder / "latest.txt").read_text().strip()), done.stdout)


def figures_of(run: Path) -> dict[tuple[str, str], float]:
    """Return the test scores by strategy and hospital."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {(line["arm"], line["site"]): line["score"] for line in lines if line["phase"] == "test"}


def test_every_model_is_tested_once_at_every_hospital_that_has_it(ended: Ended) -> None:
    alone = {("local", site) for site in SITES}
    shared = {
        (arm, site) for arm in ("fedavg", "centre", "refinement") for site in (*SITES, NEWCOMER)
    }
    assert set(figures_of(ended.run)) == alone | shared
    tested = [
        line
        for line in map(json.loads, (ended.run / "metrics.jsonl").read_text().splitlines())
        if line["phase"] == "test"
    ]
    assert len(tested) == len(alone | shared)


def test_its_table_and_its_report_have_the_scores(ended: Ended) -> None:
    page = (ended.run / "report.html").read_text()
    for score in figures_of(ended.run).values():
        assert f"{score:.3f}" in ended.printed and f"{score:.3f}" in page
    assert str(ended.run / "report.html") in ended.printed
    assert all(site in page for site in (*SITES, NEWCOMER))
    assert re.search(r"\d+ min \d+ s", ended.printed)


def test_the_newcomer_got_its_model_for_a_description_alone(ended: Ended) -> None:
    described = json.loads((ended.run / "run.json").read_text())
    assert described["state"] == "finished"
    assert described["refinement"]["newcomers"] == [NEWCOMER]
    assert set(described["refinement"]["contributors"]) == set(SITES)
    lines = list(map(json.loads, (ended.run / "events.jsonl").read_text().splitlines()))
    delivered = {line["site"]: line["why"] for line in lines if line["kind"] == "delivered"}
    assert delivered == {**dict.fromkeys(SITES, "choice"), NEWCOMER: "join"}
    asked = {line["site"] for line in lines if line["kind"] == "asked" and line["phase"] == "train"}
    assert asked == set(SITES)


def test_pictures_of_every_hospital_are_in_the_run(ended: Ended) -> None:
    for site in (*SITES, NEWCOMER):
        drawn = {path.stem for path in (ended.run / "pictures" / site).glob("*.png")}
        assert {"truth", "fedavg", "refinement"} <= drawn


def test_no_process_is_left(ended: Ended) -> None:
    assert started_in(ended.folder) == []


def test_ctrl_c_ends_everything_and_a_former_run_stays(ended: Ended) -> None:
    before = figures_of(ended.run)
    runs = ended.folder / "runs"
    process = subprocess.Popen(begin(ended.folder), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not (
            new := [path for path in runs.glob("*/events.jsonl") if path.parent != ended.run]
        ):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        assert len(started_in(ended.folder)) > 1
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    finally:
        process.kill()
    psutil.wait_procs(started_in(ended.folder), timeout=30)
    assert started_in(ended.folder) == []
    state = json.loads((new[0].parent / "run.json").read_text())
    assert state["state"] == "interrupted"
    assert figures_of(ended.run) == before
