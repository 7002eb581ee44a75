"""Refinement with real processes: two hospitals contribute, a third only describes its images."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from polyclinic.federation.run_folder import read_lines
from polyclinic.learning.model_file import load_model
from polyclinic.system.processes import Child, python_module
from polyclinic_demos.cohorts.hospitals import write_unlabelled
from polyclinic_demos.federation import ONE_THREAD, family_of
from tests.e2e.federation import Federation
from tests.processes import run_cli

pytestmark = pytest.mark.e2e
SETTINGS = (
    "strategy=refinement",
    "rounds=2",
    "strategy.base_rounds=1",
    "strategy.contributions.poll_s=0.5",
    "strategy.statistics=[average_image]",
    "strategy.rules=[softmax]",
    "strategy.sharpness=[0.2]",
    "strategy.stay.newcomers=1",
    "privacy.release.min_subjects=1",
    "deployment.hospitals=2",
    "deployment.min_hospitals=2",
)


@dataclass(frozen=True)
class Ended:
    """What is left when everybody has ended."""

    federation: Federation
    newcomer: Path  # its state folder
    statuses: tuple[int | None, int]  # of the newcomer's command, and of the coordinator's
    of_newcomer: list[psutil.Process]  # what the newcomer's command had started
    left: list[psutil.Process]  # of those, who still ran when it had ended
    said: str


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, sites: list[Path]) -> Iterator[Ended]:
    folder = tmp_path_factory.mktemp("refinement")
    one = Federation(folder, sites[:2], *SETTINGS)
    data = write_unlabelled(sites[2], folder / "data" / "st-john")
    command = python_module(
        "polyclinic_client.cli.main", "join", "--describe", "--kit", str(one.enrol("st-john")),
        "--data", str(data), "--state", str(folder / "state" / "st-john"),
    )  # fmt: skip
    newcomer = one.hospitals["st-john"] = Child(
        "st-john", command, folder / "st-john.log", ONE_THREAD
    )
    try:
        one.coordinator.start()
        for name in one.sites:
            one.join(name)
        one.wait_until(lambda: one.events("contribution"), "a contribution")
        newcomer.start()  # before there are models: it waits until there are
        one.wait_until(lambda: one.events("described"), "the description")
        started = list(family_of(newcomer.pid))
        status = newcomer.wait(60)
        left = [process for process in started if process.is_running()]
        yield Ended(
            one,
            folder / "state" / "st-john",
            (status, one.wait(60)),
            started,
            left,
            newcomer.log.read_text(),
        )
    finally:
        one.close()


def test_the_newcomers_command_ends_by_itself_with_its_model(ended: Ended) -> None:
    assert ended.statuses == (0, 0), ended.said
    model = ended.newcomer / "refined.safetensors"
    assert f"The model for st-john is {model}" in ended.said.replace("\n", "")
    load_model(model)


def test_nothing_of_it_is_left_running(ended: Ended) -> None:
    assert ended.of_newcomer  # its worker, at least
    assert ended.left == []


def test_every_hospital_has_its_model_and_only_the_newcomer_trained_nothing(ended: Ended) -> None:
    delivered = {event["site"]: event["why"] for event in ended.federation.events("delivered")}
    assert delivered == {**dict.fromkeys(ended.federation.sites, "choice"), "st-john": "join"}
    (described,) = ended.federation.events("described")
    assert (described["site"], described["subjects"]) == ("st-john", 3)
    figures = read_lines(ended.federation.runs / "run" / "metrics.jsonl")
    assert {line["site"] for line in figures} == set(ended.federation.sites)
    assert not (ended.newcomer / "training").exists() and not (ended.newcomer / "outbox").exists()


def test_no_byte_of_the_join_went_to_anybody_else(ended: Ended) -> None:
    (traffic,) = ended.federation.events("traffic")
    assert (traffic["site"], traffic["why"]) == ("st-john", "join")
    for site, kinds in traffic["bytes"].items():
        moved = {kind for kind, count in kinds.items() if count} - {"query.collect"}
        assert moved == ({"query.describe", "query.refined"} if site == "st-john" else set())


def test_its_model_predicts_and_whose_work_is_in_it_can_be_said(
    ended: Ended, sites: list[Path], tmp_path: Path
) -> None:
    image = next((sites[2] / "imagesTs").glob("*.nii.gz"))
    predicted = run_cli(
        "polyclinic_client.cli.main",
        "predict",
        str(ended.newcomer / "refined.safetensors"),
        str(image),
        "--out",
        str(tmp_path),
    )
    assert predicted.returncode == 0, predicted.stderr
    labels = nib.load(tmp_path / image.name)
    assert labels.shape == nib.load(image).shape and set(np.unique(np.asarray(labels.dataobj))) <= {
        0,
        1,
        2,
        3,
    }
    told = explain(ended, "st-john")
    assert told.returncode == 0 and all(site in told.stdout for site in ended.federation.sites)
    assert "st-john" in explain(ended, "st-jon").stderr  # it is known now


def explain(ended: Ended, site: str) -> subprocess.CompletedProcess[str]:
    ledger = ended.federation.runs / "run" / "ledger"
    return run_cli(
        "polyclinic_server.cli.main", "refine", "--for", site, "--explain", "--ledger", str(ledger)
    )
