"""What all demos share: names of runs, folders, events of another process, processes that end."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from polyclinic.errors import ResourceError, RunError
from polyclinic.federation.events import Event, Note, RoundEnd
from polyclinic.federation.run_folder import RunFolder
from polyclinic.system.processes import Child, python_module
from polyclinic_demos.federation import (
    EventTail,
    LocalFederation,
    kill_tree,
    new_federation,
    prepare_folder,
    running,
)

SLEEP = "import time; time.sleep(60)"
WAIT_FOR = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.02)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"


def demo_in(folder: Path) -> LocalFederation:
    return LocalFederation(folder, RunFolder(folder / "runs" / "one"), [], folder / "state")


def test_events_are_read_once_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.read() == []
    line = '{"time": 1.0, "arm": "fedavg", "kind": "round_end", "round": 2}\n'
    path.write_text(line[:20])
    assert tail.read() == []
    with path.open("a") as file:
        file.write(line[20:] + '{"kind": "of a method that is not installed"}\nnot JSON\n')
    assert tail.read() == [RoundEnd(time=1.0, arm="fedavg", round=2)]
    assert tail.read() == []


def test_what_was_there_before_is_passed_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.record(Note(text="before"))
    tail = EventTail(tmp_path / "events.jsonl")
    folder.record(Note(text="after ä"))
    assert [event.text for event in tail.read() if isinstance(event, Note)] == ["after ä"]


def test_two_demos_in_one_folder_have_runs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda _format: "2026-01-02_03-04-05")
    names = []
    for _ in range(3):
        demo = new_federation(tmp_path, [])
        demo.run.path.mkdir(parents=True)
        names.append(demo.run.name)
    assert len(set(names)) == 3 and all(name.startswith("2026-01-02_03-04-05") for name in names)


def test_the_folder_of_a_demo_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare_folder(Path("new") / "demo") == tmp_path / "new" / "demo"
    assert list((tmp_path / "new" / "demo").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="file"):
        prepare_folder(tmp_path / "file" / "demo")


def test_every_hospital_has_a_key_of_its_own_and_shares_a_core_with_its_group(
    tmp_path: Path,
) -> None:
    demo = demo_in(tmp_path)
    first = demo.hospital(tmp_path / "st-mary", slots="1:slow")
    second = demo.hospital(tmp_path / "st-anne")
    kits = [Path(each.command[each.command.index("--kit") + 1]) for each in (first, second)]
    assert kits[0] != kits[1] and all(kit.exists() for kit in kits)
    assert first._env["POLYCLINIC_SLOTS"] == f"1:{tmp_path / 'state' / 'slow'}"
    assert second._env["POLYCLINIC_SLOTS"].endswith(f":{tmp_path / 'state' / 'slots'}")


def test_how_far_training_is_can_be_read_only_while_there_is_something(tmp_path: Path) -> None:
    demo = demo_in(tmp_path)
    status = tmp_path / "state" / "st-mary" / "fine_tuning.json"
    assert demo.training_of("st-mary") == 0.0
    status.parent.mkdir(parents=True)
    status.write_text('{"doing": "training", "step": 3, "steps": 12}')
    assert demo.training_of("st-mary") == 0.25
    status.write_text('{"doing": "tr')
    assert demo.training_of("st-mary") == 0.0


def test_a_run_without_figures_has_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        demo_in(tmp_path).collect_pictures()


def test_pictures_of_every_hospital_come_into_the_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "one")
    run.path.mkdir(parents=True)
    line = {"arm": "fedavg", "round": 1, "phase": "test", "site": "st-mary"}
    run.add_metrics(line)
    kept = tmp_path / "state" / "st-mary" / "runs" / "one" / "fedavg" / "pictures"
    kept.mkdir(parents=True)
    (kept / "truth.png").write_bytes(b"picture")
    LocalFederation(tmp_path, run, [tmp_path / "st-mary"], tmp_path / "state").collect_pictures()
    assert (run.path / "pictures" / "st-mary" / "truth.png").read_bytes() == b"picture"


def test_whatever_happens_no_process_is_left(tmp_path: Path) -> None:
    children = [
        Child(name, [sys.executable, "-c", SLEEP], tmp_path / f"{name}.log") for name in "ab"
    ]
    with pytest.raises(KeyboardInterrupt), running(children):
        processes = [psutil.Process(child.pid) for child in children]
        raise KeyboardInterrupt
    assert not any(process.is_running() for process in processes)


def test_a_power_cut_ends_a_process_and_what_it_started(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT]) as process:
        root = psutil.Process(process.pid)
        while not (below := root.children()):
            time.sleep(0.05)
        kill_tree(process.pid)
        assert process.wait(10) == -9
        psutil.wait_procs(below, timeout=10)
    assert not any(child.is_running() for child in below)
    kill_tree(process.pid)  # it is gone already


def test_a_process_that_fails_ends_the_demo_with_its_reason(tmp_path: Path) -> None:
    demo = demo_in(tmp_path)
    demo.run.path.mkdir(parents=True)
    leader = Child("the leader", [sys.executable, "-c", SLEEP], tmp_path / "leader.log")
    fails = Child("the hospital", python_module("nowhere"), tmp_path / "hospital.log")
    with running([leader, fails]), pytest.raises(RunError, match="the hospital"):
        demo.follow(leader, [fails], lambda event: None)


def test_a_leader_that_ends_well_while_an_event_is_handled_is_no_fault(tmp_path: Path) -> None:
    demo = demo_in(tmp_path)
    demo.run.path.mkdir(parents=True)
    go = tmp_path / "go"
    command = [sys.executable, "-c", WAIT_FOR, str(go)]
    leader = Child("the leader", command, tmp_path / "leader.log")
    handled = []

    def handle(event: Event) -> None:
        go.touch()
        assert leader.wait(20.0) == 0
        handled.append(event)

    with running([leader]):
        telling = threading.Timer(0.5, demo.run.record, [Note(text="it is nearly done")])
        telling.start()
        demo.follow(leader, [], handle)
    assert len(handled) == 1


def test_what_the_coordinator_told_before_anybody_followed_is_handled_once(tmp_path: Path) -> None:
    demo = demo_in(tmp_path)
    demo.run.path.mkdir(parents=True)
    demo.coordinator()
    demo.run.record(Note(text="first"))
    handled: list[str] = []

    def handle(event: Event) -> None:
        assert isinstance(event, Note)
        handled.append(event.text)

    for text in ("second", "third"):
        demo.run.record(Note(text=text))
        leader = Child("the leader", [sys.executable, "-c", ""], tmp_path / "leader.log")
        with running([leader]):
            demo.follow(leader, [], handle)
    assert handled == ["first", "second", "third"]
