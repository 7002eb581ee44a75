"""A package from outside adds a strategy, a rule, a statistic and a network.

A hospital without the package refuses the job by name.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyclinic.system.processes import Child, python_module
from polyclinic_demos.federation import ONE_THREAD
from tests.e2e.federation import Federation

PACKAGE = Path(__file__).parent / "package"
SETTINGS = [
    "model=thin",
    "data=brain_tissue_slices",
    "data.spacing_mm=[6.0,6.0,6.0]",
    "data.patch=[24,32]",
    "data.samples_per_case=4",
    "training.batch_size=4",
    "rounds=2",
    "deployment.hospitals=2",
    "deployment.min_hospitals=2",
    "strategy.poll_s=0.5",
]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a process on a machine where the package is installed."""
    target = tmp_path_factory.mktemp("toy")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(PACKAGE)],
        check=True,
        timeout=120,
    )
    paths = [str(target), os.environ.get("PYTHONPATH", "")]
    return {**ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Extended(Federation):
    """Federation whose coordinator, and some of whose hospitals, have the package."""

    def __init__(
        self, folder: Path, sites: list[Path], environment: dict[str, str], *settings: str
    ) -> None:
        super().__init__(folder, sites, *settings)
        self.environment = environment
        command = python_module(
            "polyclinic_server.cli.main", "run", "--name", "run", *SETTINGS, *self.settings
        )
        log = folder / "coordinator.log"
        self.coordinator = Child("coordinator", command, log, environment)

    def join_extended(self, name: str) -> None:
        command = python_module(
            "polyclinic_client.cli.main",
            "join",
            "--kit",
            str(self.enrol(name)),
            "--data",
            str(self.sites[name]),
            "--state",
            str(self.folder / "state" / name),
        )
        log = self.folder / f"{name}.log"
        self.hospitals[name] = Child(name, command, log, self.environment)
        self.hospitals[name].start()


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, sites: list[Path], installed: dict[str, str]
) -> Iterator[Extended]:
    """Two hospitals with the package and one without; both strategies run to their end."""
    folder = tmp_path_factory.mktemp("extended")
    one = Extended(folder, sites, installed, "strategy=consensus,merging/median")
    first, second, third = one.sites
    try:
        one.coordinator.start()
        one.join(third)
        one.wait_until(lambda: one.events("refused"), "the refusal", timeout_s=300.0)
        one.join_extended(first)
        one.join_extended(second)
        assert one.wait() == 0, one.coordinator.log.read_text()
    finally:
        one.close()
    yield one


@pytest.mark.e2e
def test_a_hospital_without_the_package_refuses_by_name(ended: Extended) -> None:
    (refused,) = {(event["site"], event["reason"]) for event in ended.events("refused")}
    assert refused[0] == list(ended.sites)[2]
    assert "polyclinic-toy" in refused[1]


@pytest.mark.e2e
def test_the_strategy_runs_with_events_of_its_own(ended: Extended) -> None:
    agreed = ended.events("agreed")
    assert [event["round"] for event in agreed] == [1, 2]
    assert all(event["spread"] > 0 and event["arm"] == "consensus" for event in agreed)
    tested = {(line["arm"], line["site"]) for line in ended.metrics() if line["phase"] == "test"}
    sites = list(ended.sites)[:2]
    assert tested == {(arm, site) for arm in ("consensus", "merging-median") for site in sites}


@pytest.mark.e2e
def test_its_figures_are_rounded_by_its_own_part_at_the_hospital(ended: Extended) -> None:
    scores = [
        line["score"] for line in ended.metrics() if line["arm"] == "consensus" and "score" in line
    ]
    assert scores and all(score == round(score, 2) for score in scores)


@pytest.mark.e2e
def test_the_rule_publishes_a_median_of_two(ended: Extended) -> None:
    last = ended.events("published")[-1]
    assert (last["rule"], last["parameters"]) == ("Median", {"scale": 1.0})
    assert set(last["sites"]) == set(list(ended.sites)[:2])


@pytest.mark.e2e
def test_the_report_has_its_section_and_the_command_line_its_command(
    ended: Extended, installed: dict[str, str]
) -> None:
    page = (ended.runs / "run" / "report.html").read_text()
    spreads = [f"{event['spread']:.6f}" for event in ended.events("agreed")]
    assert '<h2 id="consensus">' in page
    assert all(f"<li>{spread}</li>" in page for spread in spreads)
    ran = subprocess.run(
        python_module("polyclinic_server.cli.main", "spreads", "run", "--runs", str(ended.runs)),
        env={**os.environ, **installed},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ran.stdout.split() == ["1", spreads[0], "2", spreads[1]]


@pytest.mark.e2e
def test_the_statistic_describes_hospitals(
    tmp_path: Path, sites: list[Path], installed: dict[str, str]
) -> None:
    script = """
import json, sys
import polyclinic
folders = sys.argv[2:]
result = polyclinic.simulate(
    folders, "strategy=refinement", "strategy.statistics=[brightness]", "strategy.base_rounds=1",
    "strategy.rules=[softmax]", "strategy.sharpness=[0.2]", "privacy.release.min_subjects=1",
    *json.loads(sys.argv[1]),
)
print(json.dumps(json.loads((result.folder / "run.json").read_text())["refinement"]))
"""
    settings = [text for text in SETTINGS if not text.startswith(("deployment", "strategy"))]
    ran = subprocess.run(
        [sys.executable, "-c", script, json.dumps(settings), *map(str, sites[:2])],
        env={**os.environ, **installed},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    kept = json.loads(ran.stdout.splitlines()[-1])
    assert kept["statistic"] == "brightness"
    assert kept["sites"] == [site.name for site in sites[:2]]
    assert kept["distances"][0][1] > 0
