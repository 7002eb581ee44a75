"""Requests and callers that a segmentation service refuses.

Each with the status and the sentence that belong to it.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from polyclinic.security.admission_errors import (
    KeyMissing,
    KeyOfAnother,
    KeyRevoked,
    KeyUnknown,
    PlaintextRefused,
    SignatureInvalid,
    unpack_refusal,
)
from polyclinic.security.keys import fingerprint, load_public_key, make_key
from polyclinic_client.network.connection import Connection
from polyclinic_strategies.proxy.wire.arrays import PART_BYTES
from tests.server.segmentation.segmentation_services import (
    SHAPE,
    Service,
    a_header,
    a_volume,
    caller,
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


def nan_inside() -> list[bytes]:
    volume = a_volume().astype(np.float16)
    volume[3, 4, 5] = np.nan
    return messages(volume)


def too_bright() -> list[bytes]:
    return messages(a_volume().astype(np.float16) + np.float16(1))


# what is sent, and a name or a figure that the sentence holds
INVALID = {
    "nothing": ([], "header"),
    "bytes before a header": ([some_data(10)], "header"),
    "another shape": ([a_header((16, 16, 16))], "16 x 16 x 16"),
    "another order of axes": ([a_header((*SHAPE[::-1], 1))], "16 x 24 x 16 x 1"),
    "no shape": ([a_header(())], "16 x 24 x 16"),
    "an enormous shape": ([a_header((2**31, 2**31, 2**31))], "2147483648"),
    "no type": ([a_header(dtype=0)], "UINT8, FLOAT16"),
    "an unknown type": ([a_header(dtype=99)], "UINT8, FLOAT16"),
    "no kind of answer": ([a_header(answer=0)], "LABELS, PROBABILITIES"),
    "a short id": ([a_header(request_id=b"me")], "2 bytes"),
    "a truncated stream": ([a_header(), some_data(100)], f"100 of {VOXELS:,} bytes"),
    "a byte too many": ([a_header(), some_data(VOXELS), some_data(1)], f"{VOXELS:,}"),
    "a part too large": ([a_header(), some_data(PART_BYTES + 1)], "1,048,576"),
    "two headers": ([a_header(), a_header()], "data"),
    "an empty part": ([a_header(), some_data(0)], "data"),
    "no message of ours": ([b"\xff\xff\xff\xff"], "version"),
    "rubbish after the header": ([a_header(), b"\xff\xff"], "version"),
    "NaN": (nan_inside(), "NaN"),
    "a value of 256": (too_bright(), "0 to 255"),
}


@pytest.mark.parametrize("what", INVALID)
def test_a_request_that_is_not_as_agreed_is_refused_with_the_reason(
    what: str, plain: Service
) -> None:
    sent, words = INVALID[what]
    with caller(plain.hospital("a")) as someone:
        status, sentence = someone.refused(sent)
    assert status == "INVALID_ARGUMENT" and words in sentence, (status, sentence)
    plain.until(lambda lab: lab.server.service.queue.reserved == 0)
    assert plain.lines[-1].endswith("INVALID_ARGUMENT")


def test_a_message_beyond_the_limit_is_not_taken_in(plain: Service) -> None:
    with caller(plain.hospital("a")) as someone:
        assert someone.refused([a_header(), some_data(4 * PART_BYTES)])[0] == "RESOURCE_EXHAUSTED"


def test_a_message_that_would_unfold_is_not_taken_in(plain: Service) -> None:
    with caller(plain.hospital("a")) as someone:
        bomb = [a_header(), some_data(PART_BYTES)]
        assert someone.refused(bomb, compression=grpc.Compression.Gzip)[0] == "UNIMPLEMENTED"


def test_who_shows_no_key_or_an_unknown_one_is_refused_and_journaled(
    lab: Service, tmp_path: Path
) -> None:
    mary = lab.hospital("st-mary")
    make_key(tmp_path / "stranger")
    stranger = Connection(lab.address, "st-mary", mary.kit, tmp_path / "stranger" / "hospital.key")
    with caller(mary, metadata=[]) as nobody:
        status, details = nobody.refused(messages(a_volume()))
        assert status == "UNAUTHENTICATED" and type(unpack_refusal(details)) is KeyMissing
    with caller(stranger) as unknown:
        status, details = unknown.refused(messages(a_volume()))
        assert status == "UNAUTHENTICATED" and type(unpack_refusal(details)) is KeyUnknown
    mark = fingerprint(load_public_key(tmp_path / "stranger" / "hospital.pub"))
    assert lab.sentences() == [KeyMissing(who="A client").told(), KeyUnknown(key=mark).told()]
    assert lab.lines == []


def test_a_revoked_key_and_another_sites_name(lab: Service) -> None:
    mary, john = lab.hospital("st-mary"), lab.hospital("st-john")
    with caller(Connection(lab.address, "st-john", mary.kit, mary.key)) as liar:
        refusal = unpack_refusal(liar.refused(messages(a_volume()))[1])
        assert type(refusal) is KeyOfAnother
    assert lab.server.registry is not None
    lab.server.registry.revoke("st-john", "left")
    time.sleep(1.1)  # what the registry knows may be a second old
    with caller(john) as gone:
        refusal = unpack_refusal(gone.refused(messages(a_volume()))[1])
        assert type(refusal) is KeyRevoked


def test_plain_text_to_the_tls_port(lab: Service) -> None:
    with pytest.raises(PlaintextRefused):
        Connection(lab.address, "st-mary").knock(5.0)
    told = PlaintextRefused(who="127.0.0.1", server=lab.address).told()
    lab.until(lambda running: told in running.sentences())


def test_what_is_shown_to_one_service_does_not_open_another(tmp_path: Path) -> None:
    """The operator of the first one holds what st-mary showed, and calls the second with it."""
    with service(tmp_path / "a") as first, service(tmp_path / "b") as second:
        mary = first.hospital("st-mary")
        assert mary.key is not None and second.server.registry is not None
        second.server.registry.enrol("st-mary", load_public_key(mary.key.with_suffix(".pub")))
        time.sleep(0.1)  # that a key is unknown may be a twentieth of a second old
        there = second.hospital("anybody")
        with caller(there, metadata=mary.credentials()) as thief:
            status, details = thief.refused(messages(a_volume()))
        assert status == "UNAUTHENTICATED" and type(unpack_refusal(details)) is SignatureInvalid
        with caller(mary) as herself:
            assert herself.ask(messages(a_volume()))
