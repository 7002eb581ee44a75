"""`polyclinic-server plan` with real processes: hospitals join as for a run."""

from pathlib import Path

import pytest

from polyclinic.config.plan_files import read_plan
from polyclinic.system.processes import Child, free_port, python_module, stop_all
from polyclinic_demos.federation import ONE_THREAD
from tests.strategies.planning.folders import LABELS, Case, write_site

pytestmark = pytest.mark.e2e


def test_hospitals_that_join_make_a_plan(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "plan.yaml"
    command = python_module(
        "polyclinic_server.cli.main", "plan", "--insecure", "--out", str(out),
        "data=segmentation", f"data.labels=[{','.join(LABELS)}]", "data.patch=[16,16,16]",
        f"deployment.port={port}", f"deployment.runs={tmp_path / 'runs'}",
    )  # fmt: skip
    coordinator = Child("coordinator", command, tmp_path / "coordinator.log", ONE_THREAD)
    hospitals = []
    for name, length in (("north", 24), ("south", 32)):
        cases = [Case((length, 40, 24), (1.0, 1.0, 1.0), float(value)) for value in (5, 6, 7)]
        data = write_site(tmp_path / name, cases)
        joining = python_module(
            "polyclinic_client.cli.main", "join", "--insecure", "--server", f"127.0.0.1:{port}",
            "--data", str(data), "--name", name, "--state", str(tmp_path / "state" / name),
        )  # fmt: skip
        hospitals.append(Child(name, joining, tmp_path / f"{name}.log", ONE_THREAD))
    try:
        for each in (coordinator, *hospitals):
            each.start()
        assert coordinator.wait(180) == 0, (tmp_path / "coordinator.log").read_text()
    finally:
        stop_all([*hospitals, coordinator])
    plan = read_plan(out)
    assert plan.fingerprint["patients"] == 6 and plan.settings["data.patch"] == [24, 40, 24]
    said = (tmp_path / "coordinator.log").read_text()
    assert "north: fingerprint of 3 patients" in said and "data.patch" in said
