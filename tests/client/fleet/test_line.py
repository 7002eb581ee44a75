"""The hospital's line: work and answers, through cuts, restarts and deaths."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from polyclinic.errors import ProcessDied
from polyclinic.fleet.protocol import WORKER_ENDED, FaultCode
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.security.admission_errors import KeyInUse, KeyRevoked
from polyclinic_client.fleet import worker_link
from polyclinic_client.network.connection import Connection
from tests.client.fleet.coordinators import Coordinator, coordinating
from tests.client.fleet.hospitals import HospitalLine, hospital
from tests.client.fleet.wires import Wire, wire_to

LARGE = os.urandom(1 << 20) * 8
Scenario = Callable[[Coordinator, Wire, HospitalLine], Awaitable[None]]


def play(folder: Path, scenario: Scenario) -> None:
    """Let a coordinator and a hospital meet, on a wire that can be cut."""

    async def whole() -> None:
        async with (
            coordinating(folder / "coordinator") as one,
            wire_to(one.port) as between,
            hospital(Connection(between.address, "a"), folder / "state") as other,
        ):
            await scenario(one, between, other)

    asyncio.run(whole())


def text_of(reply: wire.Envelope) -> str:
    assert not reply.HasField("fault"), reply.fault
    return str(reply.content.records[0].config.entries[0].text)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
def test_work_is_done_and_its_answer_taken(content: bytes, tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        question = one.question("hash", content)
        assert text_of(await one.ask(question)) == digest_of(content)
        assert [each.message_id for each in one.heard("received")] == [question.message_id]
        await asyncio.wait_for(other.jobs.settle(), 5.0)
        assert other.jobs.holding == []

    play(tmp_path, scenario)


def test_the_same_content_is_fetched_once(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        for _ in range(3):
            await one.ask(one.question("hash", LARGE))
        assert len(one.fetched) == 1

    play(tmp_path, scenario)


def test_a_large_answer_is_stored_and_the_hospital_frees_it(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        other.store.limit_bytes = 0
        reply = await one.ask(one.question("grow 8000000", b"x"))
        blob = reply.content.records[0].config.entries[0].blob
        assert one.store.path(blob.digest).read_bytes() == hashlib.sha256(b"x").digest() * 250_000
        await asyncio.wait_for(other.jobs.settle(), 5.0)
        assert {path.name for path in other.store.folder.iterdir()} == {"boot"}

    play(tmp_path, scenario)


def test_a_cut_in_mid_fetch_goes_on_from_what_lies_on_disk(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        between.cut_after_down = 5_000_000
        assert text_of(await one.ask(one.question("hash", LARGE))) == digest_of(LARGE)
        assert between.cuts == 1 and len(one.fetched) == 2
        assert 0 < one.fetched[1][1] < len(LARGE)

    play(tmp_path, scenario)


def test_a_cut_in_mid_store_goes_on_from_what_the_coordinator_has(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        between.cut_after_up = 5_000_000
        question = one.question("grow 8000000", b"x")
        reply = await one.ask(question)
        blob = reply.content.records[0].config.entries[0].blob
        assert one.store.path(blob.digest).stat().st_size == 8_000_000
        assert between.cuts == 1 and len(one.stored) == 2
        assert 0 < one.stored[1][1] < 8_000_000
        assert other.computed == [question.message_id]

    play(tmp_path, scenario)


def test_work_goes_on_through_a_cut_and_is_not_done_twice(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        question = one.question(f"wait {tmp_path / 'go'}")
        await one.send(work=wire.Work(envelope=question))
        await one.until(lambda: one.heard("received"))
        between.cut()
        await one.until(lambda: len(one.hellos) == 2)
        assert list(one.hellos[1].holding) == [question.message_id]
        assert one.hellos[1].client == one.hellos[0].client
        assert one.hellos[1].instance == one.instance
        await one.send(work=wire.Work(envelope=question))  # a coordinator that did not listen
        (tmp_path / "go").touch()
        await one.answer(question)
        assert other.computed == [question.message_id]
        assert "the coordinator answers; joining again" in other.said

    play(tmp_path, scenario)


def test_an_answer_is_handed_over_until_it_is_taken(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        one.take = False
        question = one.question("hash")
        await one.ask(question)
        between.cut()
        await one.until(lambda: len(one.answers(question)) == 2)
        assert other.jobs.holding == [question.message_id]
        one.taken(question.message_id)
        await asyncio.wait_for(other.jobs.settle(), 5.0)
        assert other.jobs.holding == [] and other.computed == [question.message_id]

    play(tmp_path, scenario)


def test_another_coordinator_is_not_given_the_first_ones_work(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        old = one.question(f"wait {tmp_path / 'never'}")
        waiting = one.question("hash")
        for question in (old, waiting):
            await one.send(work=wire.Work(envelope=question))
        await one.until(lambda: len(one.heard("received")) == 2)
        one.instance = "another"
        between.cut()
        await one.until(lambda: len(one.hellos) == 2)
        assert text_of(await one.ask(one.question("hash", b"new"))) == digest_of(b"new")
        assert not one.answers(old) and not one.answers(waiting)
        assert not [line for line in other.said if WORKER_ENDED in line]  # it was ended, not dead

    play(tmp_path, scenario)


def test_work_that_nobody_wants_any_more_is_forgotten(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        old = one.question(f"wait {tmp_path / 'go'}")
        await one.send(work=wire.Work(envelope=old))
        await one.until(lambda: one.heard("received"))
        one.taken(old.message_id)
        (tmp_path / "go").touch()
        await one.ask(one.question("hash"))
        assert not one.answers(old)

    play(tmp_path, scenario)


def test_a_worker_that_dies_is_a_fault_and_is_started_again(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        reply = await one.ask(one.question("die"))
        assert reply.fault.code == FaultCode.WORKER_ENDED
        assert reply.fault.reason.startswith(WORKER_ENDED)
        assert "memory" in reply.fault.reason
        assert text_of(await one.ask(one.question("hash"))) == digest_of(b"")
        assert [line for line in other.said if "It is started again" in line]

    play(tmp_path, scenario)


def test_a_worker_that_dies_again_and_again_ends_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_link, "pause_s", lambda *_: 0.0)

    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        for _ in range(worker_link.DEATHS):
            await one.ask(one.question("die"))
        with pytest.raises(ProcessDied, match="the hospital's worker ended with status -9"):
            await asyncio.wait_for(other.parts[1], 10.0)

    play(tmp_path, scenario)


def test_content_that_the_coordinator_lacks_or_refuses_is_a_fault(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        question = one.question("hash", LARGE)
        one.store.drop([question.content.records[0].config.entries[1].blob.digest])
        assert (await one.ask(question)).fault.code == FaultCode.WORK_INVALID
        one.offer_code = grpc.StatusCode.RESOURCE_EXHAUSTED
        reply = await one.ask(one.question("grow 100000"))
        assert reply.fault.code == FaultCode.REPLY_INVALID
        assert "the quota is used up" in reply.fault.reason
        one.offer_code = grpc.StatusCode.DATA_LOSS
        reply = await one.ask(one.question("grow 100000"))
        assert reply.fault.code == FaultCode.REPLY_INVALID
        one.offer_code = grpc.StatusCode.FAILED_PRECONDITION
        unwanted = one.question("grow 100000")
        await one.send(work=wire.Work(envelope=unwanted))
        await one.ask(one.question("hash"))
        await asyncio.wait_for(other.jobs.settle(), 5.0)
        assert other.jobs.holding == [] and not one.answers(unwanted)

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("sent", "fetches"), [(LARGE[:-1] + b"x", 3), (LARGE + b"x", 1), (LARGE[:-1], 1)]
)
def test_content_that_is_not_what_was_announced_is_a_fault(
    sent: bytes, fetches: int, tmp_path: Path
) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        question = one.question("hash", LARGE)
        one.store.path(question.content.records[0].config.entries[1].blob.digest).write_bytes(sent)
        assert (await one.ask(question)).fault.code == FaultCode.WORK_INVALID
        assert len(one.fetched) == fetches
        assert other.computed == []

    play(tmp_path, scenario)


def test_a_silent_line_is_cut_and_taken_up_again(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        await one.until(lambda: one.streams)
        one.beat_ms = 50
        between.cut()
        await one.until(lambda: len(one.hellos) == 2)
        one.quiet = True
        await one.until(lambda: len(one.hellos) == 3)
        one.quiet = False
        assert [line for line in other.said if "nothing was heard of it" in line]
        assert len(one.heard("heartbeat")) > 1

    play(tmp_path, scenario)


def test_a_lost_coordinator_is_waited_for(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        await asyncio.wait_for(other.welcomed.wait(), 20.0)
        between.open = False
        between.cut()
        await asyncio.sleep(1.5)
        assert not other.parts[0].done()
        between.open = True
        await one.until(lambda: len(one.hellos) == 2)
        assert len([line for line in other.said if "not there any more" in line]) == 1

    play(tmp_path, scenario)


def test_a_revoked_key_ends_the_line(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        refusal = KeyRevoked(key="SHA256:x", site="a")
        await one.send(refusal=wire.Refusal(reason=refusal.pack()))
        with pytest.raises(KeyRevoked):
            await other.ended()

    play(tmp_path, scenario)


def test_a_key_that_another_client_has_taken_meanwhile_ends_the_line(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        await one.until(lambda: one.streams)
        one.refusal = KeyInUse(site="a")
        between.cut()
        with pytest.raises(KeyInUse):
            await other.ended()

    play(tmp_path, scenario)


def test_it_says_goodbye(tmp_path: Path) -> None:
    async def whole() -> None:
        async with coordinating(tmp_path / "coordinator") as one:
            connection = Connection(f"127.0.0.1:{one.port}", "a")
            async with hospital(connection, tmp_path / "state") as other:
                await asyncio.wait_for(other.welcomed.wait(), 20.0)
            assert one.heard("goodbye")
            assert one.streams == 0

    asyncio.run(whole())


def test_notices_are_said_without_control_characters(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        await one.send(notice=wire.Notice(text="another\x1b[2J client"))
        await one.ask(one.question("hash"))
        assert "the coordinator says: another\N{REPLACEMENT CHARACTER}[2J client" in other.said

    play(tmp_path, scenario)


def test_a_journal_that_went_back_is_noticed(tmp_path: Path) -> None:
    async def scenario(one: Coordinator, between: Wire, other: HospitalLine) -> None:
        one.anchors = [wire.Anchor(journal="j", sequence=7, hash="aa", signature=b"s")]
        await one.ask(one.question("hash"))
        one.anchors = [wire.Anchor(journal="j", sequence=6, hash="bb", signature=b"s")]
        await one.ask(one.question("hash"))
        await asyncio.wait_for(other.jobs.settle(), 5.0)
        await one.ask(one.question("hash"))
        assert [line for line in other.said if "journal is not what it was" in line]
        assert '"sequence": 7' in (tmp_path / "state" / "anchors.json").read_text()

    play(tmp_path, scenario)
