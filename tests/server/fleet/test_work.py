"""Work and replies: small and large, over cuts and restarts, and what nobody asked for."""

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.protocol import CHUNK_BYTES, WORKER_ENDED, FaultCode
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic_server.fleet import open_work
from polyclinic_server.fleet.grid import FleetGrid
from polyclinic_server.fleet.server import FleetServer
from polyclinic_server.fleet.sessions import node_of
from tests.server.fleet.coordinators import Coordinator, until
from tests.server.fleet.thin_hospital import ThinHospital, Ward, digest_of

VALUES = 1_000_000  # 4 MB
UNASKED_BYTES = 3 << 20  # nearly the largest frame


def model(seed: int = 0) -> RecordDict:
    weights = np.random.default_rng(seed).random(VALUES, np.float32)
    return RecordDict({"arrays": ArrayRecord([weights]), "config": ConfigRecord({"round": 1})})


def large(envelope: wire.Envelope) -> wire.Blob:
    return envelope.content.records[0].arrays.entries[0].blob


def only(grid: FleetGrid, hospital: ThinHospital) -> Any:
    (reply,) = grid.pull_messages([hospital.asked])
    return reply


def status_of(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    code = raised.value.code()
    assert isinstance(code, grpc.StatusCode)
    return code


@pytest.fixture
def mary(lab: Coordinator, ward: Ward) -> ThinHospital:
    hospital = ward.hospital(lab.credentials("st-mary"))
    hospital.attend()
    return hospital


@pytest.fixture
def john(lab: Coordinator, ward: Ward) -> ThinHospital:
    hospital = ward.hospital(lab.credentials("st-john"))
    hospital.attend()
    return hospital


@pytest.fixture(params=["keys", "plain"])
def pair(request: pytest.FixtureRequest) -> tuple[FleetGrid, ThinHospital]:
    """A grid and a hospital, with keys and without."""
    if request.param == "keys":
        lab = request.getfixturevalue("lab")
        hospital = request.getfixturevalue("ward").hospital(lab.credentials("st-mary"))
        grid = lab.grid
    else:
        hospital = request.getfixturevalue("plain_ward").hospital("st-mary")
        grid = request.getfixturevalue("plain").grid
    hospital.attend()
    return grid, hospital


def test_a_small_question_and_its_reply(pair: tuple[FleetGrid, ThinHospital]) -> None:
    grid, hospital = pair
    question = hospital.work_of(grid, RecordDict({"c": ConfigRecord({"b": 1, "a": "x"})}))
    assert (question.type, question.group, question.node) == ("train", "1", node_of("st-mary"))
    assert grid.pull_messages([hospital.asked]) == []
    answer = wire.Content(
        records=[
            wire.Record(
                name="metrics",
                metrics=wire.Values(entries=[wire.NamedValue(name="loss", real=0.5)]),
            )
        ]
    )
    assert hospital.reply(hospital.asked, answer) == hospital.asked
    reply = only(grid, hospital)
    assert reply.content == RecordDict({"metrics": MetricRecord({"loss": 0.5})})
    assert reply.metadata.reply_to_message_id == hospital.asked
    assert reply.metadata.src_node_id == node_of("st-mary")
    assert grid.pull_messages([hospital.asked]) == []


def test_a_large_question_and_a_large_reply(pair: tuple[FleetGrid, ThinHospital]) -> None:
    grid, hospital = pair
    sent = model()
    question = hospital.work_of(grid, sent)
    data = hospital.fetch(large(question).digest)
    assert data == sent["arrays"]["0"].data
    assert hospital.offer(hospital.asked, data) == 0
    assert hospital.store(data) == len(data)
    hospital.reply(hospital.asked, question.content)
    reply = only(grid, hospital)
    assert (reply.content["arrays"]["0"].numpy() == sent["arrays"]["0"].numpy()).all()


def test_a_model_for_two_hospitals_is_written_once(
    lab: Coordinator, mary: ThinHospital, john: ThinHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    put = BlobStore.put

    def counted(store: BlobStore, buffers: Any) -> wire.Blob:
        blob = put(store, buffers)
        written.append(blob.size)
        return blob

    monkeypatch.setattr(BlobStore, "put", counted)
    content = model()
    lab.grid.push_messages(
        [lab.grid.create_message(content, "train", node, "1") for node in lab.grid.get_node_ids()]
    )
    digests = {large(each.work()).digest for each in (mary, john)}
    assert (len(digests), len(written)) == (1, 1)


def test_a_fetch_goes_on_where_it_was_cut(lab: Coordinator, mary: ThinHospital) -> None:
    content = model()
    digest = large(mary.work_of(lab.grid, content)).digest
    begun = mary.fetch(digest, most=2 * CHUNK_BYTES)
    assert CHUNK_BYTES < len(begun) < len(content["arrays"]["0"].data)
    mary.cut()
    mary.attend()
    rest = mary.fetch(digest, offset=len(begun))
    assert digest_of(begun + rest) == digest
    assert mary.fetch(digest, offset=len(begun + rest)) == b""


def test_a_reply_goes_on_where_it_was_cut(lab: Coordinator, mary: ThinHospital) -> None:
    question = mary.work_of(lab.grid, model())
    data = model(1)["arrays"]["0"].data
    assert mary.offer(mary.asked, data) == 0
    assert mary.store(data, end=CHUNK_BYTES + 77) == CHUNK_BYTES + 77
    mary.cut()
    mary.attend()
    begun = mary.offer(mary.asked, data)
    assert begun == CHUNK_BYTES + 77
    assert mary.store(data, offset=begun) == len(data)
    assert mary.offer(mary.asked, data) == len(data)
    large(question).CopyFrom(wire.Blob(digest=digest_of(data), size=len(data)))
    mary.reply(mary.asked, question.content)
    assert only(lab.grid, mary).content["arrays"]["0"].data == data


def test_the_same_client_keeps_its_work_after_a_cut(lab: Coordinator, mary: ThinHospital) -> None:
    before = lab.grid.get_nodes()[0].last_activated_at
    first = mary.work_of(lab.grid)
    kept = mary.asked
    mary.cut()
    (second,) = lab.grid.push_messages(
        [lab.grid.create_message(RecordDict(), "train", node_of("st-mary"), "2")]
    )
    mary.attend()
    # what it holds is not sent again, and what was asked meanwhile is
    assert mary.work().message_id == second
    assert lab.grid.get_nodes()[0].last_activated_at == before
    mary.reply(kept, first.content)
    assert only_reply_to(lab.grid, kept)


def only_reply_to(grid: FleetGrid, identifier: str) -> bool:
    (reply,) = grid.pull_messages([identifier])
    return bool(reply.metadata.reply_to_message_id == identifier)


def test_work_that_did_not_arrive_is_sent_again(lab: Coordinator, mary: ThinHospital) -> None:
    question = mary.work_of(lab.grid)
    mary.cut()
    mary.holding.clear()
    mary.attend()
    assert mary.work() == question


def test_a_reply_whose_acknowledgement_was_lost_is_taken_once(
    lab: Coordinator, mary: ThinHospital
) -> None:
    question = mary.work_of(lab.grid)
    mary.say(reply=wire.Reply(envelope=wire.Envelope(reply_to=mary.asked, content=wire.Content())))
    until(lambda: not lab.grid._post._work.unanswered("st-mary"), lab.grid)
    mary.cut()
    mary.attend()  # it still holds the work, and is told at once
    assert mary.hear("taken").taken.message_id == question.message_id
    assert only(lab.grid, mary).has_content()


def test_a_new_client_of_a_site_loses_the_work(
    lab: Coordinator, ward: Ward, mary: ThinHospital
) -> None:
    before = lab.grid.get_nodes()[0].last_activated_at
    question = mary.work_of(lab.grid, model())
    mary.cut()
    again = ward.hospital(lab.credentials("st-mary"))
    again.attend(instance=mary.instance, holding=[question.message_id])
    assert again.hear("taken").taken.message_id == question.message_id
    assert lab.grid.get_nodes()[0].last_activated_at > before
    assert status_of(lambda: again.fetch(large(question).digest)) is grpc.StatusCode.NOT_FOUND
    assert lab.grid.pull_messages([mary.asked]) == []
    assert again.work_of(lab.grid).message_id == again.asked


def test_work_of_a_coordinator_that_is_gone_is_not_wanted(lab: Coordinator, ward: Ward) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    hospital.attend(instance="another", holding=["old"])
    assert hospital.hear("taken").taken.message_id == "old"


def test_a_reply_that_nobody_asked_for_is_dropped(lab: Coordinator, mary: ThinHospital) -> None:
    question = mary.work_of(lab.grid)
    assert mary.reply("unsolicited", question.content) == "unsolicited"
    assert lab.grid.pull_messages(["unsolicited"]) == []
    assert status_of(lambda: mary.offer("unsolicited", b"abc")) is (
        grpc.StatusCode.FAILED_PRECONDITION
    )


def test_nobody_answers_for_another(
    lab: Coordinator, mary: ThinHospital, john: ThinHospital
) -> None:
    question = mary.work_of(lab.grid, model())
    john.reply(mary.asked, question.content, node=question.node)
    assert lab.grid.pull_messages([mary.asked]) == []
    assert status_of(lambda: john.offer(mary.asked, b"abc")) is grpc.StatusCode.FAILED_PRECONDITION
    assert status_of(lambda: john.fetch(large(question).digest)) is grpc.StatusCode.NOT_FOUND
    mary.reply(mary.asked, wire.Content())
    assert only(lab.grid, mary).metadata.src_node_id == node_of("st-mary")


def test_who_poses_as_the_coordinator_reaches_no_other_hospital(
    lab: Coordinator, mary: ThinHospital, john: ThinHospital
) -> None:
    """A hospital sends a question to another's worker, as if it were an answer."""
    open_question = mary.work_of(lab.grid)
    order = wire.Content(records=[wire.Record(name="config")])
    told = {"type": "train", "node": node_of("st-john"), "group": "1", "ttl_s": 60.0}
    assert mary.reply("", order, message_id="m" * 32, **told) == ""
    assert mary.reply("m" * 32, order, message_id=mary.asked, **told) == "m" * 32

    asked = john.work_of(lab.grid).message_id  # the first that john hears of
    assert asked == john.asked
    assert lab.grid.pull_messages(["m" * 32, "", mary.asked, john.asked]) == []
    mary.reply(open_question.message_id, order, **told)
    (reply,) = lab.grid.pull_messages([mary.asked])
    assert reply.metadata.src_node_id == node_of("st-mary")
    assert lab.grid.pull_messages([john.asked]) == []


def test_many_answers_that_nobody_asked_for_cost_no_memory(
    plain: FleetServer, plain_ward: Ward
) -> None:
    hospital = plain_ward.hospital("st-mary")
    hospital.attend()
    values = wire.Values(entries=[wire.NamedValue(name="x", data=bytes(UNASKED_BYTES))])
    content = wire.Content(records=[wire.Record(name="config", config=values)])
    hospital.reply("first", content)
    before = peak = psutil.Process().memory_info().rss
    for number in range(300 * 2**20 // UNASKED_BYTES):
        hospital.reply(f"unasked {number}", content)
        hospital.say(received=wire.Received(message_id=f"unasked {number}"))
        peak = max(peak, psutil.Process().memory_info().rss)

    assert peak - before < 50 * 2**20  # of both sides: they share this process
    assert contents(plain.grid._post._work.questions.folder.parent) == []
    assert hospital.work_of(plain.grid).message_id == hospital.asked


def test_nobody_hands_in_what_another_sent(
    lab: Coordinator, mary: ThinHospital, john: ThinHospital
) -> None:
    """That the coordinator has a content of one hospital's tells and helps another nothing."""
    data = model(1)["arrays"]["0"].data
    mary.work_of(lab.grid)
    mary.offer(mary.asked, data)
    mary.store(data)
    john.work_of(lab.grid)
    assert john.offer(john.asked, data) == 0


def test_a_reply_that_claims_what_was_not_sent_is_a_fault(
    lab: Coordinator, mary: ThinHospital
) -> None:
    question = mary.work_of(lab.grid, model())
    mary.reply(mary.asked, question.content)
    error = only(lab.grid, mary).error
    assert error.code == FaultCode.REPLY_INVALID
    assert "was not sent" in error.reason


def test_a_reply_that_cannot_be_read_is_a_fault(lab: Coordinator, mary: ThinHospital) -> None:
    mary.work_of(lab.grid)
    entry = wire.ArrayEntry(
        name="0", dtype="float32", shape=[4], stype="numpy.ndarray", inline=b"x"
    )
    record = wire.Record(name="a", arrays=wire.Arrays(entries=[entry]))
    mary.reply(mary.asked, wire.Content(records=[record]))
    reply = only(lab.grid, mary)
    assert reply.error.code == FaultCode.REPLY_INVALID
    assert reply.metadata.src_node_id == node_of("st-mary")


def test_a_fault_is_flower_s_error_and_steers_no_terminal(
    lab: Coordinator, mary: ThinHospital
) -> None:
    mary.work_of(lab.grid)
    fault = wire.Fault(code=FaultCode.WORKER_ENDED, reason=f"{WORKER_ENDED}\x1b[2J")
    mary.reply(mary.asked, fault=fault)
    error = only(lab.grid, mary).error
    assert error.code == FaultCode.WORKER_ENDED
    assert error.reason.startswith(WORKER_ENDED)
    assert "\x1b" not in error.reason


def test_a_reply_has_a_quota_and_none_of_what_is_beyond_is_taken(
    lab: Coordinator, mary: ThinHospital
) -> None:
    mary.work_of(lab.grid)
    size = open_work.QUOTA_BYTES
    assert mary.offer(mary.asked, b"", digest="a" * 64, size=size - 1) == 0
    assert status_of(lambda: mary.offer(mary.asked, b"ab")) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert mary.offer(mary.asked, b"a") == 0
    assert status_of(lambda: mary.store(b"ab")) is grpc.StatusCode.FAILED_PRECONDITION
    longer = bytes(3 * CHUNK_BYTES)
    assert status_of(lambda: mary.store(longer, digest=digest_of(b"a"))) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


def test_a_large_question_allows_a_larger_reply(lab: Coordinator, mary: ThinHospital) -> None:
    weights = np.zeros(5_000_000, np.float32)
    content = RecordDict({"a": ArrayRecord([weights])})
    mary.work_of(lab.grid, content)
    size = open_work.QUOTA_TIMES * weights.nbytes
    assert mary.offer(mary.asked, b"", digest="a" * 64, size=size) == 0
    assert size > open_work.QUOTA_BYTES


def test_a_full_disk_is_told_before_bytes_are_taken(
    lab: Coordinator, mary: ThinHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    mary.work_of(lab.grid)
    monkeypatch.setattr(open_work, "SPARE_DISK_BYTES", 1 << 60)
    assert status_of(lambda: mary.offer(mary.asked, b"abc")) is grpc.StatusCode.UNAVAILABLE


def test_a_content_that_is_not_what_it_says_is_removed(
    lab: Coordinator, mary: ThinHospital
) -> None:
    mary.work_of(lab.grid)
    mary.offer(mary.asked, b"abc")
    wrong = lambda: mary.store(b"xyz", digest=digest_of(b"abc"))  # noqa: E731
    assert status_of(wrong) is grpc.StatusCode.DATA_LOSS
    assert mary.offer(mary.asked, b"abc") == 0
    assert mary.store(b"abc") == 3


@pytest.mark.parametrize(
    "change", [{"digest": "../../x"}, {"digest": "A" * 64}, {"size": 0}], ids=str
)
def test_what_is_no_blob_cannot_be_offered(
    lab: Coordinator, mary: ThinHospital, change: dict[str, object]
) -> None:
    mary.work_of(lab.grid)
    assert status_of(lambda: mary.offer(mary.asked, b"abc", **change)) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


def test_contents_are_removed_when_no_open_work_needs_them(
    lab: Coordinator, mary: ThinHospital
) -> None:
    question = mary.work_of(lab.grid, model())
    data = model(1)["arrays"]["0"].data
    mary.offer(mary.asked, data)
    mary.store(data)
    large(question).CopyFrom(wire.Blob(digest=digest_of(data), size=len(data)))
    mary.reply(mary.asked, question.content)
    folder = lab.grid._post._work.questions.folder.parent
    assert len(contents(folder)) == 2
    reply = only(lab.grid, mary)
    assert contents(folder) == []
    assert reply.content["arrays"]["0"].data == data  # its file is open


def contents(folder: Any) -> list[str]:
    return [path.name for path in folder.rglob("*") if len(path.name) >= 64]


def test_work_is_forgotten_after_its_time(lab: Coordinator, mary: ThinHospital) -> None:
    message = lab.grid.create_message(model(), "train", node_of("st-mary"), "1", ttl=0.3)
    assert lab.grid.send_and_receive([message]) == []
    (expired,) = [mary.work().message_id]
    assert mary.reply(expired, wire.Content()) == expired
    assert lab.grid.pull_messages([expired]) == []
    assert contents(lab.grid._post._work.questions.folder) == []


def test_an_unknown_node_is_not_asked(lab: Coordinator, mary: ThinHospital) -> None:
    messages = [
        lab.grid.create_message(RecordDict(), "train", node, "1")
        for node in (12345, node_of("st-mary"))
    ]
    unknown, known = lab.grid.push_messages(messages)
    assert unknown == ""
    assert mary.work().message_id == known


def test_send_and_receive_waits_for_all(
    lab: Coordinator, mary: ThinHospital, john: ThinHospital
) -> None:
    def answer(hospital: ThinHospital) -> None:
        hospital.reply(hospital.work().message_id, wire.Content())

    nodes = lab.grid.get_node_ids()
    threads = [threading.Thread(target=answer, args=(each,)) for each in (mary, john)]
    for thread in threads:
        thread.start()
    start = time.monotonic()
    replies = lab.grid.send_and_receive(
        [lab.grid.create_message(RecordDict(), "train", node, "1") for node in nodes], timeout=10
    )
    assert [reply.metadata.src_node_id for reply in replies] == nodes
    assert time.monotonic() - start < 2.0
    for thread in threads:
        thread.join()


def test_send_and_receive_ends_at_its_time(lab: Coordinator, mary: ThinHospital) -> None:
    message = lab.grid.create_message(RecordDict(), "train", node_of("st-mary"), "1")
    start = time.monotonic()
    assert lab.grid.send_and_receive([message], timeout=0.2) == []
    assert 0.2 <= time.monotonic() - start < 2.0


def test_news_end_a_wait_at_once(lab: Coordinator, ward: Ward) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    assert not lab.grid.wait_for_news(0.01)
    woken: list[tuple[bool, float]] = []

    def wait() -> None:
        woken.append((lab.grid.wait_for_news(PATIENCE_S), time.monotonic()))

    waiter = threading.Thread(target=wait)
    waiter.start()
    hospital.attend()
    arrived = time.monotonic()
    waiter.join()
    assert woken[0][0] and woken[0][1] < arrived + 0.5
    assert lab.grid.wait_for_news(0)  # it is news to this thread, too
    assert not lab.grid.wait_for_news(0.01)
    hospital.work_of(lab.grid)
    hospital.reply(hospital.asked, wire.Content())
    assert lab.grid.wait_for_news(PATIENCE_S)


PATIENCE_S = 10.0


def test_what_cannot_travel_is_told_to_the_caller(lab: Coordinator, mary: ThinHospital) -> None:
    pickled = RecordDict({"a": ArrayRecord({"0": Array("float32", (1,), "pickle", b"x")})})
    message = lab.grid.create_message(pickled, "train", node_of("st-mary"), "1")
    with pytest.raises(Exception, match="pickle"):
        lab.grid.push_messages([message])


def test_a_server_stops_at_once_and_leaves_nothing(plain: FleetServer, plain_ward: Ward) -> None:
    for number in range(5):
        hospital = plain_ward.hospital(f"h{number}")
        hospital.attend()
        hospital.work_of(plain.grid, model())
    folder = plain.grid._post._work.questions.folder.parent
    start = time.monotonic()
    plain.__exit__(None, None, None)
    assert time.monotonic() - start < 5.0
    assert not folder.exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fleet")]
