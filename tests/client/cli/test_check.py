"""`polyclinic-client check` says of the machine what is there, and the remedy for what is not."""

import errno
import fcntl
import os
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from polyclinic.errors import ConfigError, DiskFull, ResourceError
from polyclinic.security.admission_errors import AuthorityUnknown, ClockWrong
from polyclinic.system.machine import free_memory
from polyclinic.system.processes import free_port
from polyclinic_client.cli import check, check_machine
from polyclinic_client.cli.check_machine import (
    CACHE_BYTES,
    check_disk,
    check_gpu,
    check_proxy,
    check_shm,
    check_state,
    check_training,
)
from polyclinic_client.network.connection import Connection, make_connection
from polyclinic_client.network.introduction import Welcome
from polyclinic_client.site.trial import Trial, train_on_noise, try_training
from polyclinic_demos.local_pki import kit_for, local_authority
from tests.client.fleet.test_handshake import serving

Usage = namedtuple("Usage", "total used free percent")


def refuse(code: int) -> object:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_the_state_folder_is_written_and_locked_and_nothing_stays(tmp_path: Path) -> None:
    found = check_state(tmp_path / "new" / "state")
    assert str(tmp_path) in found.text and not found.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "name", "code"), [(os, "fsync", errno.EROFS), (fcntl, "flock", errno.ENOLCK)]
)
def test_a_folder_that_cannot_keep_state_is_named_with_its_user(
    where: object, name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, refuse(code))
    with pytest.raises(ResourceError, match=f"user {os.getuid()}.*--state") as caught:
        check_state(tmp_path)
    for named in (os.strerror(code), str(tmp_path), ":z"):
        assert named in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_has_room_for_models_and_for_what_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(free: int) -> None:
        monkeypatch.setattr(psutil, "disk_usage", lambda _: Usage(10**12, 0, free, 0.0))

    leave(CACHE_BYTES)
    assert not check_disk(tmp_path / "new").remedy
    leave(CACHE_BYTES - 1)
    assert "--state" in check_disk(tmp_path).remedy
    leave(10**6)
    with pytest.raises(DiskFull, match=str(tmp_path)):
        check_disk(tmp_path)


def test_shared_memory_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "disk_usage", lambda _: Usage(2**30, 0, 0, 0.0))
    assert check_shm(tmp_path).text == "1,024 MiB" and not check_shm(tmp_path).remedy
    monkeypatch.setattr(psutil, "disk_usage", lambda _: Usage(2**20, 0, 0, 0.0))
    assert "--shm-size" in check_shm(tmp_path).remedy
    assert "--shm-size" in check_shm(tmp_path / "none").remedy


def driver(folder: Path) -> Path:
    path = folder / "version"
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5\n")
    return path


def test_a_gpu_is_named_with_its_memory_and_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_machine, "DRIVER", driver(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X")
    properties = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    found = check_gpu()
    assert (found.text, found.remedy) == ("NVIDIA X (80 GiB); driver 550.54.15", "")


@pytest.mark.parametrize(
    ("cuda", "loaded", "devices", "named"),
    [
        ("12.4", False, [], ""),
        (None, True, [], "build for CPUs"),
        ("12.4", True, [], "--gpus all"),
        ("12.4", True, ["/dev/nvidia0"], "too old for CUDA 12.4"),
    ],
)
def test_a_gpu_that_is_not_seen_has_a_remedy(
    cuda: str | None,
    loaded: bool,
    devices: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_machine, "DRIVER", driver(tmp_path) if loaded else tmp_path / "none")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(map(Path, devices)))
    found = check_gpu()
    assert "core" in found.text
    assert bool(found.remedy) == bool(named) and named in found.remedy
    assert not loaded or "550.54.15" in found.remedy


def test_a_step_of_training_is_measured() -> None:
    took = train_on_noise()
    assert took.seconds > 0 and took.memory_bytes > 2**26 and took.threads >= 1


@pytest.mark.parametrize(("seconds", "slow"), [(3.0, False), (300.0, True)])
def test_what_training_takes_is_told(
    seconds: float, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = Trial("cpu", 2, seconds, 3 * 2**30)
    monkeypatch.setattr(check_machine, "try_training", lambda _: took)
    found = check_training()
    assert f"{seconds:.1f} s on cpu" in found.text and "3.0 GiB" in found.text
    assert bool(found.remedy) == slow


DIES = """
import os, sys
def main(): {0}
main()
"""


@pytest.mark.parametrize(
    ("code", "named"),
    [("os.kill(os.getpid(), 9)", "probably memory"), ("sys.exit('no CUDA')", "no CUDA")],
)
def test_a_training_that_dies_says_why(
    code: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dies_here.py").write_text(DIES.format(code))
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", paths)
    with pytest.raises(ResourceError, match=named):
        try_training(tmp_path, "dies_here")


@pytest.mark.parametrize(
    ("environment", "said", "remedy"),
    [
        ({}, "dialled straight; no variable", ""),
        ({"https_proxy": "http://p:3128"}, "http://p:3128 leads to", ""),
        ({"https_proxy": "http://u:pw@p:3128", "no_proxy": "c"}, "dialled straight", ""),
        ({"http_proxy": "http://p:3128"}, "variables: http_proxy", "set https_proxy"),
    ],
)
def test_the_way_out_is_told_without_a_password(
    environment: dict[str, str], said: str, remedy: str
) -> None:
    found = check_proxy("c:9092", environment)
    assert said in found.text and "pw" not in found.text
    assert bool(found.remedy) == bool(remedy) and remedy in found.remedy
    assert check_proxy(None, environment).text in found.text


def test_a_proxy_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ConfigError, match="https_proxy"):
        check_proxy("c:9092", {"https_proxy": "socks5://p:1080"})


def test_the_certificate_is_told_with_its_end_and_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = local_authority(tmp_path / "security", free_port())
    connection = make_connection(None, None, kit_for(authority, "st-mary"), None, insecure=False)
    with serving(tmp_path / "store", authority):
        found = check._check_certificate(connection)
        assert found.text.endswith("for 127.0.0.1") and not found.remedy
        assert f"{connection.certificate().ends:%Y-%m-%d}" in found.text
        monkeypatch.setattr(check, "EXPIRY_DAYS", 10_000)
        assert "--renew" in check._check_certificate(connection).remedy
        other = local_authority(tmp_path / "other", free_port())
        stranger = make_connection(
            connection.server, None, kit_for(other, "st-mary"), None, insecure=False
        )
        with pytest.raises(AuthorityUnknown):
            check._check_certificate(stranger)


def test_the_clock_is_compared_where_the_coordinator_answers(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as one:
        asked = dict(check._ask(Connection(f"127.0.0.1:{one.port}", "a")))
        assert list(asked) == ["connection", "clock"]
        assert "not compared" in str(asked["clock"]())
        asked["connection"]()
        assert "0." in str(asked["clock"]())
    with pytest.raises(ClockWrong, match="200"):
        check._check_clock(Welcome("a", "1", 200.0, "i"))


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 8),
        ({"memory.max": "max", "memory.current": "5"}, 8),
        ({"memory.max": str(3 * 2**30), "memory.current": str(2**30)}, 2),
        ({"memory.max": "5", "memory.current": "7"}, 0),
        ({"memory.max": str(2**40), "memory.current": "0"}, 8),
    ],
)
def test_a_containers_limit_of_memory_counts(
    files: dict[str, str], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = SimpleNamespace(available=8 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert free_memory(tmp_path) == left * 2**30
