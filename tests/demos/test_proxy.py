"""What the demo of the deformation proxy asks for; training and service have tests of their own."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from polyclinic.imaging.datasets import read_dataset
from polyclinic_demos import proxy as demo_proxy
from polyclinic_demos.cohorts import writing
from polyclinic_demos.cohorts.visits import T1
from polyclinic_strategies.proxy.train import Orders


def test_people_with_and_without_lesions_are_written_and_two_scans_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Orders] = []
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(demo_proxy, "T1", replace(T1, voxel_mm=(8.0, 8.0, 8.0)))
    monkeypatch.setattr(writing, "_WORTH_A_PROCESS", 99)
    monkeypatch.setattr(demo_proxy, "train_proxy", lambda orders, console: trained.append(orders))
    monkeypatch.setattr(demo_proxy, "ask_service", lambda *given: asked.append(given))
    console = Console(file=io.StringIO())
    for _ in range(2):  # a second call finds the people there
        out = demo_proxy.run_proxy_demo(
            (2, 1, 1), 2, 7, tmp_path, ["training.proxy.steps=5"], console, keys=3
        )
    assert out == tmp_path / "proxy" and trained[0] == trained[1]
    orders = trained[0]
    assert (
        orders.overrides == ("seed=7", *demo_proxy.SHORT, "training.proxy.steps=5")
        and orders.keys == 3
        and orders.out == out
    )
    people, lesions = (
        read_dataset(orders.folders[0]),
        read_dataset(orders.others[0].folder, labelled=False),
    )
    assert (len(people.training), len(people.validation), len(people.test)) == (4, 2, 2)
    assert (len(lesions.training), len(lesions.validation), len(lesions.test)) == (0, 2, 2)
    assert asked[0][0] == out and asked[0][1] == [case.image[0] for case in people.test]
