"""Children forked by a nursery: they are like children that an interpreter was started for."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from polyclinic.system.nursery import Forked, nursery
from polyclinic.system.processes import Child, python_module, stop_all

SLOW = "open('imported.txt', 'a').write('once ')\n"
SAY = """
import os, random, sys, numpy
import slow
print(__name__, sys.argv[1:], os.environ["COLOUR"], os.getcwd(), os.getsid(0) == os.getpid())
print(random.random(), numpy.random.random(), file=sys.stderr)
sys.exit(3)
"""
ANSWER = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as link:
    link.sendall(link.recv(9).upper())
"""
SLEEP = """
from polyclinic.system.processes import end_with_parent
import time
end_with_parent()
print("asleep", flush=True)
time.sleep(60)
"""
START = """
from pathlib import Path
from polyclinic.system.processes import Child, python_module
import time
child = Child("sleeper", python_module("sleeper"), Path("sleeper.log"))
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    modules = {"slow": SLOW, "say": SAY, "answer": ANSWER, "sleeper": SLEEP, "starter": START}
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


@pytest.fixture
def kept(folder: Path) -> Iterator[Path]:
    with nursery(["numpy", "slow"]):
        yield folder


def child(folder: Path, module: str, *arguments: str, **env: str) -> Child:
    return Child(module, python_module(module, *arguments), folder / f"{module}.log", env)


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 30.0
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, f"{path}: no {text}"
        time.sleep(0.02)


def test_a_fork_is_as_an_interpreter_would_have_been(kept: Path) -> None:
    for colour in ("red", "blue"):
        one = child(kept, "say", "a b", "--c", COLOUR=colour)
        one.start()
        assert isinstance(one._process, Forked)
        assert one.wait(30.0) == 3
    said = (kept / "say.log").read_text().splitlines()
    assert f"__main__ ['a b', '--c'] red {kept} True" in said
    assert f"__main__ ['a b', '--c'] blue {kept} True" in said
    assert len({line for line in said if line.startswith("0.")}) == 2  # chance differs
    assert (kept / "imported.txt").read_text() == "once "


def test_open_files_are_passed_under_their_numbers(kept: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            one = child(kept, "answer", str(theirs.fileno()))
            one.start(pass_fds=[theirs.fileno()])
        ours.sendall(b"as before")
        assert ours.recv(9) == b"AS BEFORE"
        assert ours.recv(1) == b""  # nobody else holds the other end
    assert isinstance(one._process, Forked)
    assert one.wait(30.0) == 0


def test_a_fork_can_be_stopped_and_killed(kept: Path) -> None:
    ends = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        one = child(kept, "sleeper")
        one.start()
        wait_for(one.log, "asleep")
        one.log.unlink()
        assert one.status() is None
        assert one.wait(0.0) is None
        one.signal(number)
        ends.append(one.wait(30.0))
        stop_all([one])
    assert ends == [-signal.SIGTERM, -signal.SIGKILL]


def test_a_fork_ends_with_the_process_that_asked_for_it(kept: Path) -> None:
    with subprocess.Popen([sys.executable, "starter.py"], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        fork = psutil.Process(int(starter.stdout.readline()))
        wait_for(kept / "sleeper.log", "asleep")
        assert fork.cmdline()[1:3] == ["-m", "polyclinic.system.nursery"]
        starter.kill()
        starter.wait()
        fork.wait(30.0)


@pytest.mark.parametrize("setting", ["OMP_NUM_THREADS", "PYTHONPATH"])
def test_what_a_fork_cannot_have_is_started_afresh(kept: Path, setting: str) -> None:
    one = child(kept, "say", COLOUR="red", **{setting: "2"})
    one.start()
    assert isinstance(one._process, subprocess.Popen)
    assert one.wait(60.0) == 3


def test_without_its_nursery_a_child_is_started_afresh(folder: Path) -> None:
    with nursery(["slow"]):
        sleeper = child(folder, "sleeper")
        sleeper.start()
        wait_for(sleeper.log, "asleep")
        parent = psutil.Process(sleeper.pid).parent()
        assert parent is not None
        parent.kill()
        assert sleeper.wait(30.0) == -signal.SIGKILL  # nobody knows better
        os.kill(sleeper.pid, signal.SIGKILL)
        one = child(folder, "say", COLOUR="red")
        one.start()
        assert isinstance(one._process, subprocess.Popen)
        assert one.wait(60.0) == 3


def test_a_nursery_that_cannot_import_says_so_and_changes_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with nursery(["no_such_module"]):
        one = child(folder, "say", COLOUR="red")
        one.start()
        assert one.wait(60.0) == 3
    assert "no_such_module" in capfd.readouterr().err


def test_what_the_nursery_holds_is_not_closed_in_a_fork(kept: Path) -> None:
    (kept / "opener.py").write_text(
        "import gc\nfiles = [open('slow.py') for _ in range(50)]\ngc.collect()\n"
        "[file.close() for file in files]\n"
    )
    sleeper, one = child(kept, "sleeper"), child(kept, "opener")
    sleeper.start()  # the nursery holds a link and a handle of it
    one.start()
    assert one.wait(30.0) == 0, one.log.read_text()
    stop_all([sleeper])
