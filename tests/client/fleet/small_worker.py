"""A worker without Flower: `python -m tests.client.fleet.small_worker SOCKET BLOBS CONFIG`.

It writes each identifier of what it computes into the file `computed` beside the blobs.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.protocol import FaultCode
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.system.processes import end_with_parent
from polyclinic_client.fleet.frames import pack, receive


def compute(question: wire.Envelope, store: BlobStore) -> wire.Envelope:
    do, content = question.content.records[0].config.entries
    data = content.data
    if content.blob.digest:
        data = store.path(content.blob.digest).read_bytes()
    answer = wire.NamedValue(name="digest", text=hashlib.sha256(data).hexdigest())
    if do.text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do.text.startswith("fail "):  # with these last words
        sys.stderr.write(f"{do.text[5:]}\n")
        fault = wire.Fault(code=FaultCode.APP_FAILED, reason="OSError")
        return wire.Envelope(reply_to=question.message_id, type=question.type, fault=fault)
    if do.text.startswith("wait "):  # for a file
        while not Path(do.text[5:]).exists():
            time.sleep(0.01)
    if do.text.startswith("grow "):  # the answer is so long
        grown = hashlib.sha256(data).digest() * (int(do.text[5:]) // 32)
        answer = wire.NamedValue(name="grown", blob=store.put([grown]))
    record = wire.Record(name="record", config=wire.Values(entries=[answer]))
    return wire.Envelope(
        message_id=question.message_id[::-1],
        reply_to=question.message_id,
        type=question.type,
        content=wire.Content(records=[record]),
    )


def main() -> None:
    number, blobs, config = sys.argv[1:]
    assert json.loads(config)["site"]
    end_with_parent()
    store = BlobStore(Path(blobs))
    with socket.socket(fileno=int(number)) as link:
        while (question := receive(link)) is not None:
            with (Path(blobs).parent / "computed").open("a") as file:
                file.write(f"{question.message_id}\n")
            link.sendall(pack(compute(question, store)))


if __name__ == "__main__":
    main()
