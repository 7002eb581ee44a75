"""Who is here: a hospital that only describes itself belongs to the federation, and yet never trains."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from polyclinic.errors import TooFewHospitals
from polyclinic.federation.attendance import Attendance
from polyclinic.federation.events import Event
from polyclinic.federation.records import Hello, Order, hello_reply
from polyclinic.federation.run_folder import RunFolder, read_lines
from polyclinic_client.fleet.app import app as client_app
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort, write_unlabelled
from polyclinic_server.runs.app import coordinate
from tests.fakes import FakeGrid, FakeNode, serve
from tests.server.runs.test_app import SMALL

ORDER = Order("run", "arm", 0, 3, "none", "0", {"model": "unet"})


def hospital(site: str, mode: str = "train", refusal: str = "") -> Callable[[Message], Message]:
    return lambda message: hello_reply(
        message, Hello(site, "0", {"training": 1, "test": 2}, "T1", refusal, mode)
    )


class House:
    """Two hospitals that train, one that only describes itself."""

    def __init__(self, *modes: str) -> None:
        self.nodes = [
            FakeNode(number, hospital(site, mode))
            for number, (site, mode) in enumerate(zip("abc", modes, strict=True), 1)
        ]
        self.events: list[dict[str, Any]] = []
        self.attendance = Attendance(FakeGrid(self.nodes), ORDER, self.note)  # type: ignore[arg-type]

    def note(self, event: Event) -> None:
        self.events.append(event.to_line())


@pytest.fixture
def house() -> House:
    return House("train", "describe", "train")


def test_those_that_train_are_without_the_one_that_describes_itself(house: House) -> None:
    assert sorted(house.attendance.refresh()) == ["a", "c"]
    everybody = house.attendance.refresh_all()
    assert list(everybody) == ["a", "b", "c"]
    assert {site: member.describes for site, member in everybody.items()} == {
        "a": False,
        "b": True,
        "c": False,
    }
    assert house.attendance.site_of(2) == "b"


def test_one_that_describes_itself_does_not_count_as_one_that_was_waited_for(house: House) -> None:
    assert sorted(house.attendance.wait_for(2, 2, 0.0)) == ["a", "c"]
    with pytest.raises(TooFewHospitals, match="a, c answered"):
        house.attendance.wait_for(3, 3, 0.2)


def test_it_is_told_as_what_it_is(house: House) -> None:
    house.attendance.refresh()
    assert {
        event["site"]: event["mode"] for event in house.events if event["kind"] == "joined"
    } == {
        "a": "train",
        "b": "describe",
        "c": "train",
    }
    described = house.attendance.describe()
    assert described["b"] == {"modality": "T1", "training": 1, "test": 2, "describes": True}
    assert "describes" not in described["a"]


def test_it_leaves_and_comes_back_like_anybody_and_may_train_then(house: House) -> None:
    house.attendance.refresh_all()
    node = house.nodes[1]
    node.leave()
    assert list(house.attendance.refresh_all()) == ["a", "c"]
    assert [event["site"] for event in house.events if event["kind"] == "left"] == ["b"]
    node.answer = hospital("b")
    node.come_back()
    assert sorted(house.attendance.refresh()) == ["a", "b", "c"]
    assert not house.attendance.refresh_all()["b"].describes
    assert [event["site"] for event in house.events if event["kind"] == "returned"] == ["b"]


def test_one_that_is_refused_is_in_neither_list() -> None:
    house = House("train", "describe", "train")
    house.nodes[1].answer = hospital("b", "describe", "no image can be read")
    assert sorted(house.attendance.refresh_all()) == ["a", "c"]
    assert house.attendance.refused == {"b": "no image can be read"}


def test_rounds_of_averaging_never_ask_it_for_anything(tmp_path: Path) -> None:
    coarse = [replace(scanner, voxel_mm=(9.0, 9.0, 9.0)) for scanner in HOSPITALS[:3]]
    sites = write_cohort(tmp_path / "cohort", sites=3, subjects=(1, 1, 1), scanners=coarse)
    newcomer = write_unlabelled(sites[2], tmp_path / "newcomer")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "overrides.json").write_text(
        json.dumps(
            [
                [
                    *SMALL,
                    "strategy=averaging/fedavg",
                    "rounds=1",
                    "deployment.hospitals=2",
                    "deployment.min_hospitals=2",
                ]
            ]
        )
    )
    modes = [(sites[0], "train"), (sites[1], "train"), (newcomer, "describe")]
    configs = [
        {"site": path.name, "data": str(path), "state": str(folder / path.name), "mode": mode}
        for path, mode in modes
    ]
    nodes = [
        FakeNode(number, serve(client_app, config)) for number, config in enumerate(configs, 1)
    ]
    made, grid = RunFolder(folder), FakeGrid(nodes)
    coordinate(grid, made)  # type: ignore[arg-type]
    made.close()
    asked = [
        message.metadata.message_type
        for message in grid.pushed
        if message.metadata.dst_node_id == 3
    ]
    assert asked == ["query.hello"]
    assert {line["site"] for line in read_lines(folder / "metrics.jsonl")} == {
        site.name for site in sites[:2]
    }
    assert made.describe()["hospitals"]["newcomer"]["describes"]


def test_with_keys_a_node_is_the_site_of_its_key_whatever_it_calls_itself() -> None:
    house = House("train", "train", "train")
    for node, enrolled in zip(house.nodes, ("a", "z", "c"), strict=True):
        node.name = enrolled
    assert sorted(house.attendance.refresh()) == ["a", "c"]
    (refused,) = [event for event in house.events if event["kind"] == "refused"]
    assert refused["site"] == "z" and "calls itself b" in str(refused["reason"])
