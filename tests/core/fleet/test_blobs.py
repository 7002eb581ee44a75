"""Blobs: whole or not there, whatever dies; resumed from what lies on disk; evicted in order."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3

from polyclinic.errors import DiskFull
from polyclinic.fleet import blobs
from polyclinic.fleet.blobs import BlobDamaged, BlobMissing, BlobRefused, BlobStore

CONTENT = bytes(range(256)) * 40
DIGEST = blake3(CONTENT).hexdigest()


def digest_of(content: bytes) -> str:
    return blake3(content).hexdigest()


def arrive(store: BlobStore, content: bytes) -> str:
    digest = digest_of(content)
    store.append(digest, 0, content)
    store.finish(digest)
    return digest


def test_a_blob_arrives_in_pieces_and_is_whole_only_at_its_end(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    for start in range(0, len(CONTENT), 1000):
        assert store.append(DIGEST, start, CONTENT[start : start + 1000]) == store.offset(DIGEST)
        assert not store.has(DIGEST)
        with pytest.raises(BlobMissing):
            store.path(DIGEST)
    assert store.finish(DIGEST).read_bytes() == CONTENT
    assert store.offset(DIGEST) == len(CONTENT)
    assert {path.name for path in tmp_path.iterdir()} == {DIGEST, "boot"}


def test_bytes_that_are_there_are_passed_over_and_gaps_refused(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.append(DIGEST, 0, CONTENT[:500])
    assert store.append(DIGEST, 0, CONTENT[:300]) == 500
    assert store.append(DIGEST, 200, memoryview(CONTENT)[200:900]) == 900
    with pytest.raises(BlobRefused, match="has 900 bytes here"):
        store.append(DIGEST, 901, CONTENT[901:])
    store.append(DIGEST, 900, CONTENT[900:])
    store.finish(DIGEST)
    assert store.append(DIGEST, 0, b"late") == len(CONTENT)
    assert store.path(DIGEST).read_bytes() == CONTENT


def test_another_process_goes_on_from_what_lies_on_disk(tmp_path: Path) -> None:
    BlobStore(tmp_path).append(DIGEST, 0, CONTENT[:7777])
    store = BlobStore(tmp_path)
    assert store.offset(DIGEST) == 7777
    store.append(DIGEST, 7777, CONTENT[7777:])
    assert store.finish(DIGEST).read_bytes() == CONTENT


def test_a_wrong_digest_is_removed_and_can_be_sent_again(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.append(DIGEST, 0, CONTENT[:-1] + b"x")
    with pytest.raises(BlobDamaged):
        store.finish(DIGEST)
    assert store.offset(DIGEST) == 0
    store.append(DIGEST, 0, CONTENT)
    assert store.finish(DIGEST).read_bytes() == CONTENT


def test_a_part_that_is_finished_too_early_is_no_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.append(DIGEST, 0, CONTENT[:100])
    with pytest.raises(BlobDamaged):
        store.finish(DIGEST)
    assert not store.has(DIGEST)


def test_an_empty_blob_is_one(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    assert store.finish(digest_of(b"")).read_bytes() == b""
    assert store.put([]).size == 0


@pytest.mark.parametrize("name", ["", "../../secret", DIGEST.upper(), DIGEST + "0", DIGEST[:-1]])
def test_a_name_is_never_a_path(name: str, tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    for use in (store.has, store.path, store.offset, store.finish):
        with pytest.raises(BlobRefused):
            use(name)
    with pytest.raises(BlobRefused):
        store.append(name, 0, b"")
    with pytest.raises(BlobRefused):
        store.drop([name])


def test_put_writes_the_buffers_one_after_the_other(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    blob = store.put([CONTENT[:10], memoryview(CONTENT)[10:20], bytearray(CONTENT[20:])])
    assert (blob.digest, blob.size) == (DIGEST, len(CONTENT))
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert store.path(DIGEST).stat().st_mode & 0o077 == 0
    assert store.put([CONTENT]).digest == DIGEST
    assert {path.name for path in tmp_path.iterdir()} == {DIGEST, "boot"}


def test_wide_buffers_are_bytes_too(tmp_path: Path) -> None:
    wide = memoryview(CONTENT).cast("Q")
    assert BlobStore(tmp_path).put([wide]).digest == DIGEST


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, limit_bytes=2000)
    digests = [arrive(store, bytes([number]) * 1000) for number in range(4)]
    store.hold(digests)
    for second, digest in enumerate(digests):
        os.utime(store.folder / digest, (second, second))
    store.path(digests[0])  # used now
    store.release(digests)
    assert [store.has(digest) for digest in digests] == [True, False, False, True]


def test_what_is_held_or_new_stays(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, limit_bytes=0)
    new, held, free = (arrive(store, name) for name in (b"new", b"held", b"free"))
    store.hold([held, held, free])
    store.release([held, free])
    assert (store.has(new), store.has(held), store.has(free)) == (True, True, False)
    store.drop([held])
    assert store.has(held)
    store.release([held])
    assert not store.has(held)
    store.drop([new])
    assert not store.has(new)


def test_parts_and_what_an_earlier_process_left_are_evicted_too(tmp_path: Path) -> None:
    before = BlobStore(tmp_path)
    arrive(before, b"old")
    before.append(DIGEST, 0, CONTENT[:100])
    BlobStore(tmp_path, limit_bytes=0).evict()
    assert {path.name for path in tmp_path.iterdir()} == {"boot"}


def test_after_a_power_cut_a_blob_is_verified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(blobs, "BOOT_ID", boot)
    boot.write_text("one")
    folder = tmp_path / "blobs"
    sound, lost = arrive(BlobStore(folder), CONTENT), arrive(BlobStore(folder), b"lost")
    assert BlobStore(folder).has(sound)
    (folder / lost).write_bytes(b"\0\0\0\0")  # what a file system may leave
    boot.write_text("two")
    store = BlobStore(folder)
    assert not store.has(sound)
    assert store.offset(sound) == len(CONTENT)
    assert store.finish(sound).read_bytes() == CONTENT
    with pytest.raises(BlobDamaged):
        store.finish(lost)


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore(tmp_path)
    store.append(DIGEST, 0, CONTENT[:100])
    write, room = os.write, [50]

    def scarce(number: int, data: memoryview) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        return write(number, data[: room.pop()])

    monkeypatch.setattr(os, "write", scarce)
    with pytest.raises(DiskFull):
        store.append(DIGEST, 100, CONTENT[100:])
    with pytest.raises(DiskFull):
        store.put([CONTENT])
    monkeypatch.undo()
    assert store.offset(DIGEST) == 100
    assert [path.name for path in tmp_path.glob(".*")] == []
    store.append(DIGEST, 100, CONTENT[100:])
    assert store.finish(DIGEST).read_bytes() == CONTENT


def test_threads_that_bring_the_same_blob_bring_one(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, limit_bytes=0)
    content = os.urandom(1 << 20)
    digest, start = digest_of(content), threading.Barrier(8)

    def bring(number: int) -> bytes:
        start.wait()
        if number % 2:
            store.put([content])
            return store.path(digest).read_bytes()
        for offset in range(0, len(content), 10_000 + number):
            store.append(digest, offset, content[offset : offset + 10_000 + number])
        return store.finish(digest).read_bytes()

    with ThreadPoolExecutor(8) as threads:
        assert all(found == content for found in threads.map(bring, range(8)))


def test_eviction_never_takes_what_another_thread_holds(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, limit_bytes=0)

    def use(number: int) -> None:
        for turn in range(40):
            blob = store.put([f"{number % 3} {turn % 4}".encode()])
            store.hold([blob.digest])
            if store.has(blob.digest):  # another thread may have released the same one before
                assert store.path(blob.digest).read_bytes()
            store.release([blob.digest])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(use, range(6)))
    store.evict()
    assert [path.name for path in tmp_path.iterdir() if path.name != "boot"] == []


WRITER = """
import sys, os
from pathlib import Path
from polyclinic.fleet.blobs import BlobStore
from blake3 import blake3
import hashlib
store = BlobStore(Path(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    content = hashlib.sha256(str(number).encode()).digest() * 4000
    digest = blake3(content).hexdigest()
    for start in range(0, len(content), 16_384):
        store.append(digest, start, content[start : start + 16_384])
    store.finish(digest)
    store.put([content + b"put", content])
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("written", [0, 1, 3, 8, 20])
def test_a_kill_leaves_whole_blobs_and_parts(written: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    for _ in range(written + 1):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = BlobStore(tmp_path)
    for path in tmp_path.iterdir():
        if blobs.DIGEST.fullmatch(path.name):
            assert digest_of(path.read_bytes()) == path.name
        elif path.suffix == blobs.PART:
            content = next(
                content
                for content in (
                    hashlib.sha256(str(number).encode()).digest() * 4000
                    for number in range(written + 200)
                )
                if digest_of(content) == path.stem
            )
            offset = store.offset(path.stem)
            assert content[:offset] == path.read_bytes()
            store.append(path.stem, offset, content[offset:])
            assert store.finish(path.stem).read_bytes() == content


def test_a_blob_that_another_process_wrote_is_taken_over(tmp_path: Path) -> None:
    theirs, ours = BlobStore(tmp_path / "theirs"), BlobStore(tmp_path / "ours")
    digest = theirs.put([CONTENT]).digest
    ours.adopt(tmp_path / "theirs" / digest)
    assert ours.path(digest).read_bytes() == CONTENT and not theirs.has(digest)
    ours.adopt(tmp_path / "theirs" / digest)  # it is here
    with pytest.raises(BlobMissing):
        ours.adopt(tmp_path / "theirs" / digest_of(b"other"))
    with pytest.raises(BlobRefused):
        ours.adopt(tmp_path / "theirs" / "boot")
