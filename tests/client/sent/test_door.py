"""The one door out of the client: what passes it is in the journal, and the policy holds there."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from blake3 import blake3

from polyclinic.errors import DiskFull, NotAllowed
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic_client.fleet import jobs
from polyclinic_client.network.connection import Connection
from polyclinic_client.sent.door import Door, NotWritten
from polyclinic_client.sent.journal import FILE, Journal, Leaving
from tests.client.fleet.coordinators import Coordinator, coordinating
from tests.client.fleet.hospitals import HospitalLine, hospital
from tests.packaging.layout import PACKAGES

Scenario = Callable[[Coordinator, HospitalLine], Awaitable[None]]
# modules that may open a connection: the door's channel, the tunnel below its TLS, the worker's,
# and the one to the PACS, which is the hospital's own
OPENS = {
    "dicom/pacs.py",
    "network/connection.py",
    "network/proxy.py",
    "network/certificate.py",
    "network/relay.py",
    "fleet/worker.py",
    "fleet/worker_link.py",
}


def play(folder: Path, scenario: Scenario) -> Journal:
    state = folder / "state"

    async def whole() -> None:
        async with coordinating(folder / "coordinator") as one:
            connection = Connection(f"127.0.0.1:{one.port}", "a", state=state)
            async with hospital(connection, state) as other:
                await scenario(one, other)

    asyncio.run(whole())
    return Journal(state / FILE)


def test_each_frame_is_in_the_journal_and_a_content_by_its_own_digest(tmp_path: Path) -> None:
    heard: list[wire.FromHospital] = []

    async def scenario(one: Coordinator, other: HospitalLine) -> None:
        one.beat_ms = 50
        reply = await one.ask(one.question("grow 300000", b"x"))
        blob = reply.content.records[0].config.entries[0].blob
        await asyncio.wait_for(other.jobs.settle(), 5.0)
        heard.extend(one.frames)
        heard.append(wire.FromHospital(received=wire.Received(message_id=blob.digest)))

    journal = play(tmp_path, scenario)
    assert journal.verify().fault == ""
    entries = list(journal.entries())
    digests = {(each.kind, each.bytes, each.digest) for each in entries}
    digest = heard.pop().received.message_id
    assert [each.bytes for each in entries if each.digest == digest] == [300_000 // 32 * 32]
    for frame in heard:
        kind, data = str(frame.WhichOneof("frame")), frame.SerializeToString()
        if kind != "heartbeat":
            kind = {"reply": "query.test", "received": "receipt"}.get(kind, kind)
            assert (kind, len(data), blake3(data).hexdigest()) in digests
    assert {"hello", "proof", "receipt", "query.test", "goodbye"} <= {each.kind for each in entries}


@pytest.mark.parametrize(
    ("policy", "error"), [("strategies: []\n", "NotAllowed"), ("nonsense", "PolicyDamaged")]
)
def test_an_answer_that_the_policy_forbids_meanwhile_stays(
    tmp_path: Path, policy: str, error: str
) -> None:
    async def scenario(one: Coordinator, other: HospitalLine) -> None:
        question = one.question(f"wait {tmp_path / 'go'}")
        await one.send(work=wire.Work(envelope=question))
        await one.until(lambda: one.heard("received"))
        (other.state / "policy.yaml").write_text(policy)
        (tmp_path / "go").touch()
        reply = await one.answer(question)
        assert reply.HasField("fault") and reply.fault.reason.startswith(error)
        large = await one.ask(one.question("grow 300000", b"x"))
        assert large.HasField("fault") and not one.stored
        (other.state / "policy.yaml").unlink()
        assert not (await one.ask(one.question("hash", b"x"))).HasField("fault")

    kinds = [each.kind for each in play(tmp_path, scenario).entries()]
    assert kinds.count("fault") == 2 and kinds.count("query.test") == 1


def test_nothing_leaves_while_the_journal_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "RETRY_S", 0.05)
    full, append, refused = False, Journal.append, 0

    def limited(journal: Journal, *leaving: Leaving) -> None:
        nonlocal refused
        if full:
            refused += 1
            raise DiskFull(tmp_path, 0, 1)
        append(journal, *leaving)

    monkeypatch.setattr(Journal, "append", limited)

    async def scenario(one: Coordinator, other: HospitalLine) -> None:
        nonlocal full
        question = one.question(f"wait {tmp_path / 'go'}")
        await one.send(work=wire.Work(envelope=question))
        await one.until(lambda: one.heard("received"))
        frames, full = len(one.frames), True
        (tmp_path / "go").touch()
        while refused < 3:
            await asyncio.sleep(0.05)
        assert len(one.frames) == frames and not one.replies
        full = False
        assert not (await one.answer(question)).HasField("fault")
        assert any("for now" in said for said in other.said)

    play(tmp_path, scenario)


def test_a_heartbeat_that_says_more_is_an_entry_of_its_own(tmp_path: Path) -> None:
    door = Door(tmp_path, "there:1")
    for number in (1, 2, 99, 3):
        beat = wire.FromHospital(heartbeat=wire.Heartbeat(number=number))
        door.let_out(beat, beat.SerializeToString())
    door.end_line()
    assert [each.kind for each in door.journal.entries()] == ["heartbeat", "line"]


def test_a_content_that_was_not_offered_is_kept_back(tmp_path: Path) -> None:
    chunk = wire.Chunk(digest="a" * 64, data=b"images")
    with pytest.raises(NotWritten):
        Door(tmp_path, "there:1").let_out(chunk, chunk.SerializeToString())


def test_an_answer_to_a_question_that_nobody_knows_stays(tmp_path: Path) -> None:
    door = Door(tmp_path, "there:1")
    content = wire.Content(records=[wire.Record(name="metrics")])
    reply = wire.Envelope(reply_to="unknown", type="train", content=content)
    frame = wire.FromHospital(reply=wire.Reply(envelope=reply))
    offer = wire.OfferRequest(message_id="unknown", blob=wire.Blob(digest="a" * 64, size=9))
    for message in (frame, offer):
        with pytest.raises(NotAllowed):
            door.let_out(message, message.SerializeToString())
    assert list(door.journal.entries()) == []


def test_the_longest_words_of_a_coordinator_fit_into_a_line(tmp_path: Path) -> None:
    words, journal = "\U0001f600" * 200, Journal(tmp_path / FILE)
    for _ in range(2):
        journal.append(Leaving(words, 1, "a" * 64, words, words, words))
    assert journal.verify().entries == 2


def test_what_nobody_foresaw_is_written_too(tmp_path: Path) -> None:
    door = Door(tmp_path, "there:1")
    door.let_out(b"something", b"something")
    (entry,) = door.journal.entries()
    assert (entry.bytes, entry.digest) == (9, blake3(b"something").hexdigest())


def test_no_other_module_of_the_client_opens_a_connection() -> None:
    root = PACKAGES["polyclinic_client"]
    pattern = re.compile(
        r"secure_channel|create_connection|socket\.socket\(|socketpair|urlopen|http\.client|"
        r"^\s*(import|from) (requests|httpx|urllib3|aiohttp)\b|open_connection\((?!sock=)",
        re.MULTILINE,
    )
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert "network/connection.py" in found and found <= OPENS
