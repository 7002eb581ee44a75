"""Client of a segmentation service that is busy, away, another one, or answers nonsense."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, as_completed, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyclinic.errors import PolyclinicError
from polyclinic.security.admission_errors import KeyRevoked
from polyclinic.system.processes import free_port
from polyclinic_client.network.connection import Connection
from polyclinic_client.segmentation.client import SegmentationLink
from polyclinic_client.segmentation.errors import (
    AnswerInvalid,
    RequestRefused,
    ServiceBusy,
    ServiceMismatch,
    ServiceUnreachable,
)
from polyclinic_client.segmentation.segment_files import Job, plan
from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from polyclinic_strategies.proxy.wire.arrays import RETRY_HEADER, answer_parts
from tests.client.segmentation.proxies import (
    Request,
    Rolling,
    Script,
    abort,
    answer,
    failing,
    run,
    scripted,
    write_image,
)
from tests.server.segmentation.segmentation_services import LABELS, SHAPE, a_volume


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyclinic_client.segmentation.client.FIRST_PAUSE_S", 0.05)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_image(tmp_path / "scan.nii.gz")
    return Job(tmp_path / "scan.nii.gz", tmp_path / "labels.nii.gz", None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digest": "f" * 64}, "digest 0123456789ab here, ffffffffffff there"),
        ({"shape": (8, 8, 8)}, "shape 16 x 24 x 16 here, 8 x 8 x 8 there"),
        (
            {"labels": ["background", "tumour", "white"]},
            "labels background, grey, white here, background, tumour, white there",
        ),
    ],
)
def test_a_service_for_another_generator_is_sent_nothing(
    change: dict[str, Any], said: str, job: Job
) -> None:
    script = Script(answer)
    described = {"shape": SHAPE, "labels": LABELS, "digest": script.description.digest, **change}
    script.description = wire.Description(**described)
    with scripted(script) as address:
        sentence = failing(ServiceMismatch, [job], Connection(address, "a"))
    assert said in sentence and "Nothing was sent" in sentence and "--generator" in sentence
    assert script.requests == []


def test_a_busy_or_lost_service_is_asked_again_with_the_same_proxy_and_another_id(job: Job) -> None:
    protection = Rolling()
    busy = abort(
        "RESOURCE_EXHAUSTED", "32 requests wait already. Ask again in 1 s.", (RETRY_HEADER, "0.1")
    )
    script = Script(
        busy,
        abort("UNAVAILABLE", "Socket closed"),
        abort("DEADLINE_EXCEEDED", "Nothing came for 30 s."),
        answer,
    )
    with scripted(script) as address:
        said = run([job], Connection(address, "a"), protection)
    assert (
        "32 requests wait already" in said
        and "connection to the segmentation service was lost" in said
    )
    assert len(protection.keys) == 1 and len(script.requests) == 4
    assert len({request.volume.tobytes() for request in script.requests}) == 1
    assert len({request.header.request_id for request in script.requests}) == 4
    assert job.target.exists()


def test_a_service_that_was_replaced_in_the_meantime_is_sent_nothing_more(job: Job) -> None:
    def replace(_request: Request, context: Any) -> None:
        script.description = wire.Description(shape=SHAPE, labels=LABELS, digest="f" * 64)
        abort("UNAVAILABLE", "Socket closed")(_request, context)

    script = Script(replace)
    with scripted(script) as address:
        failing(ServiceMismatch, [job], Connection(address, "a"))
    assert len(script.requests) == 1


def foreign(request: Request, _context: Any) -> Iterator[wire.AnswerPart]:
    return answer_parts(request.volume // 128, request.header.answer, bytes(16))


def short(request: Request, context: Any) -> Iterator[wire.AnswerPart]:
    header, part = answer(request, context)
    return iter([header, wire.AnswerPart(data=part.data[:-1])])


def long(request: Request, context: Any) -> Iterator[wire.AnswerPart]:
    return iter([*answer(request, context), wire.AnswerPart(data=b"\0")])


def beyond(request: Request, _context: Any) -> Iterator[wire.AnswerPart]:
    return answer_parts(
        np.full(SHAPE, 3, np.uint8), request.header.answer, request.header.request_id
    )


def empty(_request: Request, _context: Any) -> Iterator[wire.AnswerPart]:
    return iter(())


REFUSED = [
    (
        abort("INVALID_ARGUMENT", "The volume's shape is odd."),
        RequestRefused,
        "refused the request (INVALID_ARGUMENT): The volume's shape",
    ),
    (abort("INTERNAL", "The model failed (RuntimeError)."), RequestRefused, "The model failed"),
    (
        abort("RESOURCE_EXHAUSTED", "A request needs more. Have it started with --memory-gb."),
        RequestRefused,
        "--memory-gb",
    ),
    (
        abort("UNAUTHENTICATED", KeyRevoked(site="a", key="SHA256:x").pack()),
        KeyRevoked,
        "has revoked the key",
    ),
    (abort("UNAVAILABLE", "Socket closed"), ServiceBusy, "Run the same command again later"),
    (foreign, AnswerInvalid, "belongs to another request"),
    (short, AnswerInvalid, "the stream ended after"),
    (long, AnswerInvalid, "more bytes than"),
    (beyond, AnswerInvalid, "it has label 3, there are 3 classes"),
    (empty, AnswerInvalid, "belongs to another request"),
]


@pytest.mark.parametrize(("act", "kind", "said"), REFUSED)
def test_every_failure_has_its_type_and_a_sentence(
    act: Any, kind: type[PolyclinicError], said: str, job: Job
) -> None:
    with scripted(Script(act)) as address:
        assert said in failing(kind, [job], Connection(address, "a"), wait_s=0.3)
    assert not job.target.exists()


def test_what_ends_one_image_for_good_ends_the_others_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_late(futures: list[Future[None]]) -> Iterator[Future[None]]:
        wait(futures)
        return as_completed(futures)

    monkeypatch.setattr("polyclinic_client.segmentation.segment_files.as_completed", look_late)
    for number in range(4):
        write_image(tmp_path / "in" / f"{number}.nii.gz")
    hanging = threading.Event()

    def hang(_request: Request, context: Any) -> None:
        hanging.set()
        ended = threading.Event()
        context.add_callback(ended.set)
        assert ended.wait(20.0)

    def refuse(_request: Request, context: Any) -> None:
        assert hanging.wait(20.0)
        abort("INTERNAL", "The model failed.")(_request, context)

    script = Script(hang, refuse)
    with scripted(script) as address:
        failing(
            RequestRefused,
            plan([tmp_path / "in"], tmp_path / "out", None),
            Connection(address, "a"),
        )
    assert len(script.requests) == 2 and not (tmp_path / "out").exists()


def test_nobody_answers(job: Job) -> None:
    said = failing(
        ServiceUnreachable, [job], Connection(f"127.0.0.1:{free_port()}", "a"), wait_s=0.2
    )
    assert "No segmentation service answers" in said and "segment-service" in said


def test_a_service_that_goes_away_for_good_is_named() -> None:
    with ExitStack() as stack:
        connection = Connection(stack.enter_context(scripted(Script(answer))), "a")
        with SegmentationLink(
            connection, LABELS, SHAPE, Rolling().digest, 0.5, lambda _text: None
        ) as link:
            stack.close()
            with pytest.raises(ServiceUnreachable):
                link.segment(a_volume(), "labels")
