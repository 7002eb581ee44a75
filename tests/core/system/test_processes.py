import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from polyclinic.errors import (
    AddressInvalid,
    PortTaken,
    ProcessDied,
    ServerUnreachable,
    StorageFailed,
)
from polyclinic.system.listening import claim_port
from polyclinic.system.processes import (
    PARENT,
    Child,
    free_port,
    lock_file,
    parse_address,
    pause_s,
    wait_for_port,
)


def test_pauses_grow_with_the_time_waited() -> None:
    assert pause_s(0.0, 0.02, 3.0) == 0.02
    assert pause_s(10.0, 0.02, 3.0) == pytest.approx(0.5)
    assert pause_s(1e6, 0.02, 3.0) == 3.0


@pytest.mark.parametrize(
    "address", ["localhost", ":9092", "host:", "host:port", "host:0", "host:70000"]
)
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(AddressInvalid, match="HOST:PORT"):
        parse_address(address)


def test_addresses_are_parsed() -> None:
    assert parse_address("127.0.0.1:9092") == ("127.0.0.1", 9092)
    assert parse_address("[::1]:80") == ("::1", 80)


def test_a_taken_port_names_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortTaken, match=r"deployment\.port=NUMBER"):
            claim_port("127.0.0.1", taken.getsockname()[1], "deployment.port=NUMBER")


def test_nobody_answering_is_said_in_time() -> None:
    start = time.monotonic()
    with pytest.raises(ServerUnreachable, match="No coordinator answers"):
        wait_for_port(f"127.0.0.1:{free_port()}", 0.2)
    assert time.monotonic() - start < 5


def test_a_share_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageFailed, match="No locks available"), lock_file(tmp_path / "lock"):
        pytest.fail("it was locked")


def child(tmp_path: Path, code: str) -> Child:
    return Child("a child", [sys.executable, "-c", code], tmp_path / "child.log")


def test_a_child_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    one = child(tmp_path, "print('first'); print('the reason'); raise SystemExit(7)")
    one.start()
    assert one.wait(30) == 7
    with pytest.raises(ProcessDied, match="status 7: the reason"):
        one.check()


def test_a_child_is_ended_with_everything_that_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; grandchild = subprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(60)']);print(grandchild.pid, flush=True); time.sleep(60)"
    )
    one = child(tmp_path, code)
    one.start()
    deadline = time.monotonic() + 30
    while not one.log.read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.05)
    grandchild = int(one.log.read_text())
    one.stop()
    assert one.status() is not None
    psutil.wait_procs(
        [process for process in psutil.process_iter() if process.pid == grandchild], timeout=10
    )
    assert (
        not psutil.pid_exists(grandchild)
        or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
    )


def test_a_child_that_will_not_end_is_killed(tmp_path: Path) -> None:
    one = child(
        tmp_path,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', "
        "flush=True); time.sleep(60)",
    )
    one.start()
    deadline = time.monotonic() + 30
    while not one.log.read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.05)
    one.stop(patience_s=0.2)
    assert one.status() == -signal.SIGKILL


def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    inner = (
        "from polyclinic.system.processes import end_with_parent; import os, time;"
        "end_with_parent(); print(os.getpid(), flush=True); time.sleep(60)"
    )
    one = child(
        tmp_path,
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {inner!r}]); "
        "time.sleep(60)",
    )
    one.start()
    deadline = time.monotonic() + 60
    while not one.log.read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.05)
    grandchild = int(one.log.read_text())
    os.kill(one.pid, signal.SIGKILL)
    one.wait(10)
    while (
        psutil.pid_exists(grandchild)
        and psutil.Process(grandchild).status() != psutil.STATUS_ZOMBIE
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert (
        not psutil.pid_exists(grandchild)
        or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
    )


def test_a_child_whose_parent_was_gone_before_it_could_look_ends(tmp_path: Path) -> None:
    code = (
        "import time; from polyclinic.system.processes import end_with_parent; "
        "end_with_parent(); time.sleep(60)"
    )
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    orphan = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, PARENT: str(gone.pid)}
    )
    assert orphan.wait(20.0) != 0
