import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from polyclinic.errors import DiskFull, StorageFailed
from polyclinic.learning.state_dict import load_state, save_state
from polyclinic.system.durable import (
    copy_durably,
    file_digest,
    make_private_folder,
    put_in_place,
    remove_leftovers,
    replacing,
    temporary_file,
    write_atomically,
    write_durably,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of fsync was for a folder."""
    calls: list[bool] = []

    def record(number: int) -> None:
        calls.append(stat.S_ISDIR(os.fstat(number).st_mode))

    monkeypatch.setattr(os, "fsync", record)
    return calls


@pytest.mark.parametrize("write", [write_durably, write_atomically])
@pytest.mark.parametrize("content", ["grün\n", "grün\n".encode()])
def test_a_file_is_replaced(
    tmp_path: Path, write: Callable[[Path, bytes | str], None], content: bytes | str
) -> None:
    path = tmp_path / "a" / "b" / "file"
    write(path, "before")
    write(path, content)
    assert path.read_bytes() == "grün\n".encode()
    assert names(path.parent) == ["file"]


def test_only_durable_writes_flush_the_file_and_then_its_folder(
    tmp_path: Path, flushed: list[bool]
) -> None:
    write_atomically(tmp_path / "status.json", "{}")
    assert flushed == []
    write_durably(tmp_path / "kit.json", "{}")
    assert flushed == [False, True]


def test_a_durable_file_is_private_unless_it_is_for_others(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        write_durably(tmp_path / "key", b"secret")
        write_durably(tmp_path / "label.nii", b"labels", private=False)
        write_atomically(tmp_path / "report.html", "report")
        copy_durably(tmp_path / "report.html", tmp_path / "copy")
    finally:
        os.umask(umask)
    assert [mode(tmp_path / name) for name in ("key", "copy")] == [0o600, 0o600]
    assert [mode(tmp_path / name) for name in ("label.nii", "report.html")] == [0o644, 0o644]


def test_an_error_in_the_block_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyError), replacing(path) as unfinished:
        unfinished.write_text("half")
        raise KeyError("gone wrong")
    assert path.read_text() == "before"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("durable", [True, False])
def test_two_writers_do_not_share_a_temporary_name(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    with replacing(path, durable=durable) as first, replacing(path, durable=durable) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ends last
    assert names(tmp_path) == ["file"]


def test_a_file_can_get_its_name_from_its_content(tmp_path: Path) -> None:
    with temporary_file(tmp_path, "new") as unfinished:
        unfinished.write_text("content")
        put_in_place(unfinished, tmp_path / file_digest(unfinished)[:8])
    with temporary_file(tmp_path, "nameless") as unfinished:
        unfinished.write_text("content")
    assert names(tmp_path) == ["ed7002b4"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, "no")

    source = tmp_path / "source"
    source.write_bytes(b"0" * 3 * 2**20)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFull, match="3 MiB are needed"):
        copy_durably(source, tmp_path / "copy")
    with pytest.raises(DiskFull):
        write_durably(tmp_path / "file", b"0")
    assert names(tmp_path) == ["source"]


def test_another_error_of_the_disk_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no") as raised:
        write_durably(tmp_path / "file", b"0")
    assert raised.value.errno == errno.EIO
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_share_that_flushes_no_folder_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    write_durably(tmp_path / "new" / "file", "content")
    save_state({"weight": torch.ones(2)}, tmp_path / "model.safetensors", {})
    assert (tmp_path / "new" / "file").read_text() == "content"
    assert load_state(tmp_path / "model.safetensors")[0]["weight"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("code", "free"), [(errno.EACCES, 10**9), (errno.ENOSPC, 0)])
def test_a_model_that_cannot_be_written_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, free: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageFailed if free else DiskFull):
        save_state({"weight": torch.ones(2)}, tmp_path / "model.safetensors", {})
    assert names(tmp_path) == []


def test_a_copy_is_whole_and_its_digest_is_returned(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 5000)
    digest = copy_durably(source, tmp_path / "b" / "c" / "copy")
    assert (tmp_path / "b" / "c" / "copy").read_bytes() == source.read_bytes()
    assert digest == file_digest(source)


def test_only_old_leftovers_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "ab"
    folder.mkdir()
    with replacing(folder / "model") as unfinished:
        unfinished.write_text("half")
        os.utime(unfinished, (0, 0))
        for name in (".young.partial", "kept.safetensors"):
            (folder / name).touch()
        os.utime(folder / "kept.safetensors", (0, 0))
        remove_leftovers(tmp_path)
        assert names(folder) == [".young.partial", "kept.safetensors"]
        unfinished.write_text("again")


def test_a_private_folder_is_closed_to_others(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700


def test_a_folder_of_another_user_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "volume").mkdir()
    before = mode(tmp_path / "volume")

    def not_ours(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", not_ours)
    make_private_folder(tmp_path / "volume")
    assert mode(tmp_path / "volume") == before
