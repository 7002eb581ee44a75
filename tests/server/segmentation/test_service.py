"""The segmentation service.

Who is answered, who is refused and how, and that it stays bounded, fair and alive.
"""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from polyclinic_server.segmentation.model import SegmentationModel
from polyclinic_server.segmentation.service import STOPPING, Limits
from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from polyclinic_strategies.proxy.wire.arrays import PART_BYTES, RETRY_HEADER
from tests.server.segmentation.segmentation_services import (
    DESCRIBE,
    DIGEST,
    LABELS,
    PATIENCE_S,
    SHAPE,
    Caller,
    Failing,
    Held,
    Service,
    a_header,
    a_model,
    a_volume,
    caller,
    expected,
    joined,
    messages,
    service,
    some_data,
)

VOXELS = int(np.prod(SHAPE))
LARGE = (160, 192, 160)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def plain() -> Iterator[Service]:
    with service() as running:
        yield running


def test_a_volume_is_segmented_over_tls_by_an_enrolled_key(lab: Service) -> None:
    volume = a_volume()
    with caller(lab.hospital("st-mary")) as mary:
        parts = mary.ask(messages(volume))
    assert parts[0].header.request_id == bytes(16)
    np.testing.assert_array_equal(joined(parts), expected(volume))
    (line,) = lab.lines
    assert line.startswith(f"st-mary: request 1, {VOXELS:,} bytes, waited ") and line.endswith(
        " s, OK"
    )


def test_probabilities_are_of_the_foreground_and_add_up(plain: Service) -> None:
    volume = a_volume()
    with caller(plain.hospital("a")) as someone:
        answer = joined(someone.ask(messages(volume, wire.PROBABILITIES)))
    assert answer.shape == (2, *SHAPE)
    whole = np.concatenate([255 - answer.sum(0, keepdims=True), answer])
    assert (whole.argmax(0) == expected(volume)).mean() > 0.99


def test_halves_on_the_same_scale_give_the_same_labels(plain: Service) -> None:
    volume = a_volume()
    with caller(plain.hospital("a")) as someone:
        np.testing.assert_array_equal(
            joined(someone.ask(messages(volume.astype(np.float16)))), expected(volume)
        )


def test_a_knock_and_a_description(lab: Service) -> None:
    mary = lab.hospital("st-mary")
    assert mary.knock().site == "st-mary"
    with caller(mary) as known:
        described = wire.Description.FromString(
            known.channel.unary_unary(DESCRIBE)(b"", metadata=known.metadata, timeout=PATIENCE_S)
        )
    assert (tuple(described.shape), tuple(described.labels), described.digest) == (
        SHAPE,
        LABELS,
        DIGEST,
    )
    assert described.limits.part_bytes == PART_BYTES and described.limits.waiting == 32


def test_health_needs_no_key_and_everything_else_does(lab: Service) -> None:
    with caller(lab.hospital("st-mary"), metadata=[]) as probe:
        # SERVING
        assert (
            probe.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=PATIENCE_S)
            == b"\x08\x01"
        )
        for method in (
            DESCRIBE,
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ):
            assert probe.refused([b""], method=method)[0] == "UNAUTHENTICATED"


def test_reflection_is_off_unless_it_is_asked_for(plain: Service) -> None:
    ask = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    list_services = b"\x3a\x00"
    with caller(plain.hospital("a")) as someone:
        assert someone.refused([list_services], method=ask)[0] == "UNIMPLEMENTED"
    with service(reflection=True) as lab, caller(lab.hospital("a")) as someone:
        assert b"polyclinic.proxy.v1.Segmentation" in next(
            someone.start([list_services], method=ask)
        )


def test_a_model_that_fails_is_said_without_a_voxel(tmp_path: Path) -> None:
    with service(model=a_model(Failing())) as lab, caller(lab.hospital("a")) as someone:
        status, sentence = someone.refused(messages(a_volume()))
        assert status == "INTERNAL" and "(RuntimeError)" in sentence
        assert lab.lines[0].endswith("INTERNAL")


def a_large_model() -> SegmentationModel:
    return replace(a_model(), shape=LARGE, data=replace(a_model().data, patch=LARGE))


def slowly(first: list[bytes], leaving: threading.Event) -> Iterator[bytes]:
    yield from first
    leaving.wait(PATIENCE_S)


def trickling(leaving: threading.Event) -> Iterator[bytes]:
    yield a_header()
    while not leaving.wait(0.05):
        yield some_data(1)


def test_a_slow_sender_is_ended_and_its_place_is_free_again() -> None:
    leaving = threading.Event()
    with (
        service(limits=Limits(waiting=1, idle_s=0.3, upload_s=0.8)) as lab,
        caller(lab.hospital("a")) as someone,
    ):
        try:
            status, sentence = someone.refused(slowly([], leaving))
            assert status == "DEADLINE_EXCEEDED" and "header" in sentence and "0.3 s" in sentence
            status, sentence = someone.refused(slowly([a_header(), some_data(9)], leaving))
            assert status == "DEADLINE_EXCEEDED" and "volume" in sentence and "0.3 s" in sentence
            status, sentence = someone.refused(trickling(leaving))
            assert status == "DEADLINE_EXCEEDED" and "upload" in sentence and "0.8 s" in sentence
        finally:
            leaving.set()
        assert lab.server.service.queue.reserved == 0
        assert len(someone.ask(messages(a_volume()))) == 2


def test_an_answer_that_nobody_takes_is_given_up() -> None:
    with service(limits=Limits(idle_s=0.5)) as lab, caller(lab.hospital("a")) as someone:
        lab.server.service._model = a_large_model()
        call = someone.start(messages(np.zeros(LARGE, np.uint8), wire.PROBABILITIES))
        # the answer is larger than what the connection takes in by itself
        lab.until(lambda running: len(running.lines) == 1)
        assert lab.lines[0].endswith("DEADLINE_EXCEEDED") and lab.server.service.queue.reserved == 0
        call.cancel()


def test_calls_of_one_site_are_bounded_before_they_have_sent_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polyclinic_server.segmentation.service.CALLS_OF_A_SITE", 3)
    leaving = threading.Event()
    with service() as lab, caller(lab.hospital("a")) as someone, caller(lab.hospital("b")) as other:
        opened = [someone.start(slowly([], leaving)) for _ in range(3)]
        lab.until(lambda running: running.server.service._calls["a"] == 3)
        status, sentence = someone.refused(messages(a_volume()))
        assert status == "RESOURCE_EXHAUSTED" and "3 calls" in sentence
        assert len(other.ask(messages(a_volume()))) == 2
        for call in opened:
            call.cancel()
        lab.until(lambda running: not running.server.service._calls)
        leaving.set()
        assert len(someone.ask(messages(a_volume()))) == 2


def test_rubbish_instead_of_a_question_does_no_harm(plain: Service) -> None:
    with caller(plain.hospital("a")) as someone:
        for method in (
            DESCRIBE,
            "/polyclinic.Door/Knock",
            "/polyclinic.proxy.v1.Segmentation/Other",
        ):
            with contextlib.suppress(grpc.RpcError):
                list(someone.start([b"\xff\xff\xff"], method=method))
        assert someone.ask(messages(a_volume()))


def test_a_full_queue_says_when_to_ask_again_and_memory_is_bounded() -> None:
    held = Held()
    with (
        service(model=a_model(held), limits=Limits(waiting=2)) as lab,
        caller(lab.hospital("a")) as someone,
        ThreadPoolExecutor(8) as pool,
    ):
        computing = pool.submit(someone.ask, messages(a_volume()))
        assert held.entered.acquire(timeout=PATIENCE_S)
        waiting = [pool.submit(someone.ask, messages(a_volume())) for _ in range(2)]
        lab.until(lambda running: running.server.service.queue.waiting == 2)
        call = someone.start(messages(a_volume()))
        with pytest.raises(grpc.RpcError):
            list(call)
        assert (
            call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            and "2 requests wait already" in call.details()
        )
        assert float(dict(call.trailing_metadata())[RETRY_HEADER]) >= 1
        held.go.release(3)
        for each in (computing, *waiting):
            assert len(each.result(PATIENCE_S)) == 2
    with service(limits=Limits(memory=2 * VOXELS - 1)) as lab, caller(lab.hospital("a")) as someone:
        status, sentence = someone.refused(messages(a_volume()))
        assert status == "RESOURCE_EXHAUSTED" and "--memory-gb" in sentence


def test_thirty_requests_of_one_site_do_not_hold_up_another() -> None:
    held = Held()
    with (
        service(model=a_model(held), limits=Limits(waiting=30)) as lab,
        caller(lab.hospital("greedy")) as greedy,
        caller(lab.hospital("modest")) as modest,
        ThreadPoolExecutor(40) as pool,
    ):
        many = [pool.submit(greedy.ask, messages(a_volume()))]
        assert held.entered.acquire(timeout=PATIENCE_S)
        many += [pool.submit(greedy.ask, messages(a_volume(seed))) for seed in range(30)]
        lab.until(lambda running: running.server.service.queue.waiting == 30)
        one = pool.submit(modest.ask, messages(a_volume()))
        # greedy's newest gave up its place
        lab.until(lambda running: "RESOURCE_EXHAUSTED" in " ".join(running.lines))
        lab.until(lambda running: "modest" in running.server.service.queue._lines)
        held.go.release(2)
        assert len(one.result(PATIENCE_S)) == 2
        lab.until(lambda running: sum(line.endswith("OK") for line in running.lines) == 2)
        computed = {line.split(":")[0] for line in lab.lines if line.endswith("OK")}
        held.go.release(30)
        outcomes = [each.exception(PATIENCE_S) for each in many]
    assert computed == {"greedy", "modest"}  # two were let go: the modest site's was the next
    assert sum(outcome is not None for outcome in outcomes) == 1


def test_a_request_that_hangs_up_is_not_computed() -> None:
    held = Held()
    with (
        service(model=a_model(held)) as lab,
        caller(lab.hospital("a")) as someone,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(someone.ask, messages(a_volume()))
        assert held.entered.acquire(timeout=PATIENCE_S)
        second = someone.start(messages(a_volume()))
        lab.until(lambda running: bool(running.server.service.queue._lines))
        second.cancel()
        lab.until(lambda running: running.server.service.queue.waiting == 0)
        held.go.release(2)
        assert len(first.result(PATIENCE_S)) == 2
        lab.until(lambda running: running.server.service.queue.reserved == 0)
        assert held.seen == 1
        lab.until(lambda running: any(line.endswith("CANCELLED") for line in running.lines))


def test_a_connection_that_is_lost_leaves_the_queue_over_tls_too(tmp_path: Path) -> None:
    held = Held()
    with service(tmp_path, model=a_model(held)) as lab, ThreadPoolExecutor(1) as pool:
        mary, john = Caller(lab.hospital("st-mary")), Caller(lab.hospital("st-john"))
        first = pool.submit(mary.ask, messages(a_volume()))
        assert held.entered.acquire(timeout=PATIENCE_S)
        call = john.start(messages(a_volume()))
        lab.until(lambda running: bool(running.server.service.queue._lines))
        john.close()
        lab.until(lambda running: running.server.service.queue.waiting == 0)
        held.go.release(1)
        assert len(first.result(PATIENCE_S)) == 2 and not call.is_active()
        mary.close()
        assert [line.rpartition(", ")[2] for line in lab.lines] == ["CANCELLED", "OK"]


def test_deadlines_of_the_caller_and_of_the_service() -> None:
    held = Held()
    with (
        service(model=a_model(held), limits=Limits(deadline_s=1.0)) as lab,
        caller(lab.hospital("a")) as someone,
    ):
        assert someone.refused(messages(a_volume()), timeout_s=0.4)[0] == "DEADLINE_EXCEEDED"
        lab.until(lambda running: len(running.lines) == 1)
        held.go.release(1)
        status, sentence = someone.refused(messages(a_volume()))
        assert status == "DEADLINE_EXCEEDED" and "answer" in sentence and "1 s" in sentence
        held.go.release(1)
        lab.until(lambda running: running.server.service.queue.reserved == 0)


def test_a_service_that_stops_finishes_what_it_computes_and_sends_the_others_away() -> None:
    held = Held()
    with (
        service(model=a_model(held)) as lab,
        caller(lab.hospital("a")) as someone,
        ThreadPoolExecutor(4) as pool,
    ):
        first = pool.submit(someone.ask, messages(a_volume()))
        assert held.entered.acquire(timeout=PATIENCE_S)
        second = pool.submit(someone.refused, messages(a_volume()))
        lab.until(lambda running: bool(running.server.service.queue._lines))
        stopped = pool.submit(lab.do, lab.server.service.stop())
        status, sentence = second.result(PATIENCE_S)
        assert (status, sentence) == ("UNAVAILABLE", STOPPING.sentence)
        assert someone.refused(messages(a_volume()))[0] == "UNAVAILABLE"
        held.go.release(1)
        assert len(first.result(PATIENCE_S)) == 2
        stopped.result(PATIENCE_S)
