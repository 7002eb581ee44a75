"""The hospital's worker: it answers by the ClientApp, and its faults say no more than they may."""

import errno
import logging
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from polyclinic.errors import ConfigError, DatasetInvalid, OutOfMemory
from polyclinic.federation.envelope import decode, encode, make_message
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.protocol import FaultCode
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic_client.fleet.frames import pack, receive
from polyclinic_client.fleet.worker import Worker, describe_machine, serve

WEIGHTS = np.arange(100_000, dtype=np.float32)
app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    weights = message.content["weights"]
    assert isinstance(weights, ArrayRecord)
    doubled = Array(2 * weights["all"].numpy())
    site = ConfigRecord({"site": str(context.node_config["site"])})
    content = RecordDict({"weights": ArrayRecord({"all": doubled}), "site": site})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    raise DatasetInvalid(Path("/data/patient-7.nii"), "broken", "Mend it.")


@app.query("memory")
def memory(message: Message, context: Context) -> Message:
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")


@app.query("share")
def share(message: Message, context: Context) -> Message:
    raise OSError(errno.ESTALE, "Stale file handle", "/data/patient-7.nii")


@app.query()
def query(message: Message, context: Context) -> Message:
    raise ConfigError("There is no such setting.")


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


@pytest.fixture
def worker(store: BlobStore) -> Worker:
    return Worker(app, store, {"site": "st-mary"})


def question(store: BlobStore, kind: str) -> wire.Envelope:
    content = RecordDict({"weights": ArrayRecord({"all": Array(WEIGHTS)})})
    return encode(make_message(content, 7, kind, message_id="m" * 32, group="3"), store)


def test_large_arrays_travel_as_blobs_both_ways(store: BlobStore, worker: Worker) -> None:
    asked = question(store, "train")
    reply = worker.answer(asked)
    assert reply.reply_to == asked.message_id and reply.message_id not in ("", asked.message_id)
    assert (reply.node, reply.group, reply.type) == (7, "3", "train")
    content = decode(reply, store).content
    weights, site = content["weights"], content["site"]
    assert isinstance(weights, ArrayRecord) and isinstance(site, ConfigRecord)
    assert np.array_equal(weights["all"].numpy(), 2 * WEIGHTS)
    assert site["site"] == "st-mary"
    assert reply.ByteSize() < 1000


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        ("evaluate", FaultCode.APP_FAILED, "DatasetInvalid"),
        ("query", FaultCode.APP_FAILED, "ConfigError: There is no such setting."),
        ("query.memory", FaultCode.APP_FAILED, f"OutOfMemory: {OutOfMemory('GPU')}"),
        ("query.share", FaultCode.APP_FAILED, "StorageFailed"),
        ("train.unknown", FaultCode.APP_FAILED, "ValueError"),
    ],
)
def test_an_error_says_no_more_than_it_may(
    kind: str, code: FaultCode, reason: str, store: BlobStore, worker: Worker
) -> None:
    reply = worker.answer(question(store, kind))
    assert (reply.fault.code, reply.fault.reason) == (code, reason)
    assert reply.reply_to == "m" * 32


def test_the_last_line_of_the_log_says_what_was_wrong(
    store: BlobStore, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        worker.answer(question(store, "query.share"))
    assert "/data/patient-7.nii" in caplog.messages[-1]
    assert "Stale file handle" in caplog.messages[-1]


def test_work_that_cannot_be_read_is_a_fault(store: BlobStore, worker: Worker) -> None:
    asked = question(store, "train")
    store.drop([asked.content.records[0].arrays.entries[0].blob.digest])
    assert worker.answer(asked).fault.code == FaultCode.WORK_INVALID
    assert worker.answer(wire.Envelope(type="train")).fault.code == FaultCode.WORK_INVALID


def test_it_serves_until_the_client_is_gone(store: BlobStore, worker: Worker) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=serve, args=[theirs, worker])
        thread.start()
        for _ in range(2):
            ours.sendall(pack(question(store, "train")))
            reply = receive(ours)
            assert reply is not None and reply.HasField("content")
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(10.0)
        assert not thread.is_alive()


def test_frames_are_bounded() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\xff\xff\xff\xff" + os.urandom(10))
        with pytest.raises(Exception, match="is too long"):
            receive(theirs)


def test_it_says_what_it_computes_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told = describe_machine(2.5e9, tmp_path)
    assert told.device.partition(" ")[2] in ("core", "cores")
    assert told.memory_bytes == 2_500_000_000
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert describe_machine(2.5e9, tmp_path).device == "GPU"
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text(
        "IRQ: 7\nModel: \t\t NVIDIA H100 80GB HBM3\nGPU UUID: GPU-1\n"
    )
    told = describe_machine(2.5e9, tmp_path)
    assert (told.device, told.memory_bytes) == ("NVIDIA H100 80GB HBM3", 0)
