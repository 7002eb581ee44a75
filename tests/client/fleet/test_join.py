"""`polyclinic-client join` as a process: what it imports, says and leaves behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from polyclinic.errors import ProcessDied, RunError
from polyclinic.security.keys import authority_fingerprint
from polyclinic.security.kit import Kit
from polyclinic.system.processes import free_port
from polyclinic_client.fleet.contribute import contribute
from polyclinic_client.fleet.join import describe, only_client
from polyclinic_client.fleet.supervisor import Supervisor
from polyclinic_client.network.connection import Connection
from polyclinic_client.site.status import CONNECTION, Machine, StatusFile, write_machine
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from tests.client.fleet.coordinators import Coordinator, coordinating
from tests.client.fleet.hospitals import SMALL_WORKER
from tests.client.fleet.test_handshake import serving

PATIENCE_S = 60.0
JOIN = """
import sys
from pathlib import Path
from polyclinic.system.exit_codes import end_like_ctrl_c
from polyclinic_client.fleet import join, supervisor
from polyclinic_client.network.connection import make_connection
import signal
signal.signal(signal.SIGTERM, end_like_ctrl_c)
kit, state = map(Path, sys.argv[1:])
connection = make_connection(None, None, kit, None, insecure=False)
def say(text):
    print(text, flush=True)
    if "joining. Ctrl-C" in text:
        heavy = {"torch", "flwr", "numpy", "monai"} & set(sys.modules)
        print(f"imported: {sorted(heavy)}", flush=True)
supervisor.Supervisor.__init__.__defaults__ = ("train", "tests.client.fleet.small_worker")
try:
    join.join(connection, state, state, 30.0, say)
except KeyboardInterrupt:
    heavy = {"torch", "flwr", "numpy", "monai"} & set(sys.modules)
    print(f"imported at the end: {sorted(heavy)}", flush=True)
"""


def wait_for(true: object, what: str) -> None:
    assert callable(true)
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return local_authority(tmp_path / "security", free_port())


@pytest.fixture
def joined(tmp_path: Path, authority: Authority) -> Iterator[subprocess.Popen[str]]:
    kit = kit_for(authority, "st-mary")
    with subprocess.Popen(
        [sys.executable, "-c", JOIN, str(kit), str(tmp_path / "state")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_that_joins_is_small_says_goodbye_and_leaves_nothing(
    tmp_path: Path, authority: Authority, joined: subprocess.Popen[str]
) -> None:
    with serving(tmp_path / "store", authority) as one:
        wait_for(lambda: one.streams, "a line")
        started = psutil.Process(joined.pid).children(recursive=True)
        assert len(started) == 1  # the worker
        joined.send_signal(signal.SIGTERM)
        said, _ = joined.communicate(timeout=PATIENCE_S)
        wait_for(lambda: one.heard("goodbye"), "a goodbye")
    kit = Kit.read(kit_for(authority, "st-mary"))
    assert kit.key in said and authority_fingerprint(authority.ca()) in said
    assert "imported: []" in said and "imported at the end: []" in said
    assert not any(each.is_running() for each in started)


def test_a_supervisor_tells_where_it_stands(tmp_path: Path) -> None:
    said: list[str] = []
    state = tmp_path / "state"
    with serving(tmp_path / "store") as one:
        connection = Connection(f"127.0.0.1:{one.port}", "a")
        supervisor = Supervisor(connection, state, state, said.append, module=SMALL_WORKER)
        status = StatusFile(state / CONNECTION)
        assert status.read().doing == "lost"
        supervisor.start()
        try:
            wait_for(lambda: status.read().doing == "connected", "the line")
            supervisor.tend()
            supervisor.settle(5.0)
        finally:
            supervisor.leave()
        assert status.read().doing == "lost"
        assert one.heard("goodbye")


@pytest.mark.parametrize(
    ("policy", "device"),
    [("", "H100"), ("hide_machine: true", ""), ("what is this", "")],
)
def test_what_the_worker_does_is_told_without_its_reasons(
    tmp_path: Path, policy: str, device: str
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    write_machine(state, Machine(device="H100", memory_bytes=80))
    (state / "policy.yaml").write_text(policy)
    about = {"step": 4, "steps": 8, "reason": "/data/patient-7.nii"}
    (state / "status.json").write_text(json.dumps({"time": 1.0, "doing": "preparing", **about}))
    with serving(tmp_path / "store") as one:
        one.beat_ms = 50
        connection = Connection(f"127.0.0.1:{one.port}", "a")
        supervisor = Supervisor(connection, state, state, lambda _: None, module=SMALL_WORKER)
        supervisor.start()
        try:
            wait_for(lambda: one.heard("doing"), "what it does")
        finally:
            supervisor.leave()
        (said,) = one.heard("doing")
        assert (said.text, said.device) == ("preparing 50 %", device)
        assert said.memory_bytes == (80 if device else 0)


def test_a_worker_that_cannot_start_ends_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyclinic_client.fleet.worker_link.pause_s", lambda *_: 0.0)
    said: list[str] = []

    def ended(supervisor: Supervisor) -> bool:
        try:
            supervisor.tend()
        except ProcessDied:
            return True
        return False

    with serving(tmp_path / "store") as one:
        supervisor = _broken(one, tmp_path, said)
        supervisor.start()
        try:
            wait_for(lambda: ended(supervisor), "the end")
        finally:
            supervisor.leave()
        assert len([line for line in said if "It is started again" in line]) == 4
        assert "No module named" in said[0]


@pytest.mark.parametrize("command", [describe, contribute])
def test_a_hospital_that_cannot_answer_its_greeting_ends_and_both_sides_hear_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., object]
) -> None:
    small = partial(Supervisor, module=SMALL_WORKER)
    monkeypatch.setattr("polyclinic_client.fleet.join.Supervisor", small)
    monkeypatch.setattr("polyclinic_client.fleet.contribute.Supervisor", small)
    state, said = tmp_path / "state", list[str]()

    async def meet() -> None:
        async with coordinating(tmp_path / "store") as one:
            connection = Connection(f"127.0.0.1:{one.port}", "a")
            name = ("a",) if command is contribute else ()
            arguments = (connection, tmp_path, *name, state, 60.0, said.append)
            newcomer = asyncio.create_task(asyncio.to_thread(command, *arguments))
            question = one.question("fail OSError: /data/patient-7.nii is gone")
            question.type = "query.hello"
            reply = await one.ask(question)
            assert reply.fault.reason == "OSError"
            with pytest.raises(RunError, match="is gone"):
                async with asyncio.timeout(PATIENCE_S / 2):
                    await newcomer

    asyncio.run(meet())
    assert any("query.hello" in line and "patient-7" in line for line in said)
    assert "patient-7" in (state / "worker.log").read_text()


def _broken(one: Coordinator, folder: Path, said: list[str]) -> Supervisor:
    connection = Connection(f"127.0.0.1:{one.port}", "a")
    state = folder / "state"
    return Supervisor(connection, state, state, said.append, module="polyclinic_client.no_module")


def test_a_state_folder_is_its_users_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)  # as earlier versions made it
    with only_client(state):
        assert state.stat().st_mode & 0o777 == 0o700
