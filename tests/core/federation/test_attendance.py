"""Attendance: who takes part, who is online, who only describes its images."""

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


class Hospitals:
    """Hospitals a, b and c, each in a mode: train or describe."""

    def __init__(self, *modes: str) -> None:
        self.nodes = [
            FakeNode(number, hospital(site, mode))
            for number, (site, mode) in enumerate(zip("abc", modes, strict=True), 1)
        ]
        self.events: list[dict[str, Any]] = []
        self.attendance = Attendance(FakeGrid(self.nodes), ORDER, self.note)  # type: ignore[arg-type]

    def note(self, event: Event) -> None:
        self.events.append(event.to_line())

    def sites(self, kind: str) -> list[str]:
        return [str(event["site"]) for event in self.events if event["kind"] == kind]


@pytest.fixture
def hospitals() -> Hospitals:
    return Hospitals("train", "describe", "train")


def test_a_hospital_that_describes_is_a_member_but_does_not_train(hospitals: Hospitals) -> None:
    attendance = hospitals.attendance
    assert sorted(attendance.refresh()) == ["a", "c"]
    members = attendance.refresh_all()
    assert list(members) == ["a", "b", "c"]
    describes = {site: member.describes for site, member in members.items()}
    assert describes == {"a": False, "b": True, "c": False}
    assert attendance.site_of(2) == "b"


def test_a_hospital_that_describes_does_not_count_for_the_minimum(hospitals: Hospitals) -> None:
    assert sorted(hospitals.attendance.wait_for(2, 2, 0.0)) == ["a", "c"]
    with pytest.raises(TooFewHospitals, match="a, c answered"):
        hospitals.attendance.wait_for(3, 3, 0.2)


def test_its_mode_is_in_the_event_and_in_the_description(hospitals: Hospitals) -> None:
    hospitals.attendance.refresh()
    joined = [event for event in hospitals.events if event["kind"] == "joined"]
    modes = {event["site"]: event["mode"] for event in joined}
    assert modes == {"a": "train", "b": "describe", "c": "train"}
    described = hospitals.attendance.describe()
    assert described["b"] == {"modality": "T1", "training": 1, "test": 2, "describes": True}
    assert "describes" not in described["a"]


def test_it_leaves_and_comes_back_and_may_train_then(hospitals: Hospitals) -> None:
    attendance = hospitals.attendance
    attendance.refresh_all()
    node = hospitals.nodes[1]
    node.leave()
    assert list(attendance.refresh_all()) == ["a", "c"]
    assert hospitals.sites("left") == ["b"]
    node.answer = hospital("b")
    node.come_back()
    assert sorted(attendance.refresh()) == ["a", "b", "c"]
    assert not attendance.refresh_all()["b"].describes
    assert hospitals.sites("returned") == ["b"]


def test_a_hospital_that_is_refused_is_no_member() -> None:
    hospitals = Hospitals("train", "describe", "train")
    hospitals.nodes[1].answer = hospital("b", "describe", "no image can be read")
    assert sorted(hospitals.attendance.refresh_all()) == ["a", "c"]
    assert hospitals.attendance.refused == {"b": "no image can be read"}


def test_a_hospital_that_prepares_for_long_is_waited_for_and_named() -> None:
    hospitals = Hospitals("train", "train", "train")
    node = hospitals.nodes[1]
    node.name, node.answer = "b", lambda _message: None
    attendance = hospitals.attendance
    assert sorted(attendance.wait_for(3, 2, 0.1)) == ["a", "c"]  # enough others are there
    assert attendance.preparing() == ("b",)

    def answer_when_told(event: Event) -> None:
        hospitals.note(event)
        if "b" in event.to_line().get("preparing", ()):
            node.leave()
            attendance.refresh()
            node.answer = hospital("b")
            node.come_back()

    attendance._on_event = answer_when_told
    assert sorted(attendance.wait_for(3, 3, 0.1)) == ["a", "b", "c"]
    assert attendance.preparing() == ()
    waits = [event for event in hospitals.events if event["kind"] == "waiting"]
    assert [event["preparing"] for event in waits if event.get("preparing")] == [["b"]]


def test_a_hospital_that_goes_while_it_prepares_is_waited_for_no_longer() -> None:
    hospitals = Hospitals("train", "train", "train")
    hospitals.nodes[1].answer = lambda _message: None
    hospitals.attendance.refresh()
    hospitals.nodes[1].leave()
    with pytest.raises(TooFewHospitals):
        hospitals.attendance.wait_for(3, 3, 0.1)


def test_a_greeting_is_worth_an_answer_for_days() -> None:
    hospitals = Hospitals("train", "train", "train")
    hospitals.attendance.refresh()
    grid = hospitals.attendance._grid
    assert {message.metadata.ttl >= 86_400.0 for message in grid.pushed} == {True}  # type: ignore[attr-defined]


def test_rounds_of_averaging_never_ask_it_for_anything(tmp_path: Path) -> None:
    coarse = [replace(scanner, voxel_mm=(9.0, 9.0, 9.0)) for scanner in HOSPITALS[:3]]
    sites = write_cohort(tmp_path / "cohort", sites=3, subjects=(1, 1, 1), scanners=coarse)
    newcomer = write_unlabelled(sites[2], tmp_path / "newcomer")
    folder = tmp_path / "run"
    folder.mkdir()
    two = ["rounds=1", "deployment.hospitals=2", "deployment.min_hospitals=2"]
    settings = [*SMALL, "strategy=averaging/fedavg", *two]
    (folder / "overrides.json").write_text(json.dumps([settings]))
    modes = [(sites[0], "train"), (sites[1], "train"), (newcomer, "describe")]
    configs = [
        {"site": path.name, "data": str(path), "state": str(folder / path.name), "mode": mode}
        for path, mode in modes
    ]
    apps = [serve(client_app, config) for config in configs]
    made, grid = RunFolder(folder), FakeGrid(map(FakeNode, (1, 2, 3), apps))
    coordinate(grid, made)  # type: ignore[arg-type]
    made.close()
    sent = [message.metadata for message in grid.pushed]
    assert [each.message_type for each in sent if each.dst_node_id == 3] == ["query.hello"]
    scored = {line["site"] for line in read_lines(folder / "metrics.jsonl")}
    assert scored == {site.name for site in sites[:2]}
    assert made.describe()["hospitals"]["newcomer"]["describes"]


def test_with_keys_a_node_is_the_site_of_its_key_whatever_it_calls_itself() -> None:
    hospitals = Hospitals("train", "train", "train")
    for node, enrolled in zip(hospitals.nodes, ("a", "z", "c"), strict=True):
        node.name = enrolled
    assert sorted(hospitals.attendance.refresh()) == ["a", "c"]
    (refused,) = [event for event in hospitals.events if event["kind"] == "refused"]
    assert refused["site"] == "z"
    assert {"b", "z"} < set(str(refused["reason"]).replace(",", " ").replace(":", " ").split())
