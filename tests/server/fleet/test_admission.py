"""Who is let in, and that everybody else is told why, on both sides."""

import time
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from polyclinic.security.admission_errors import (
    AdmissionRefused,
    ClockWrong,
    KeyInUse,
    KeyMissing,
    KeyOfAnother,
    KeyRevoked,
    KeyUnknown,
    ProtocolRefused,
    SignatureInvalid,
    unpack_refusal,
)
from polyclinic_server.fleet.server import FleetServer
from tests.server.fleet.coordinators import Coordinator, coordinator, until
from tests.server.fleet.thin_hospital import Credentials, ThinHospital, Ward


def refused(hospital: ThinHospital, kind: type[AdmissionRefused], **changes: object) -> None:
    """Introduce a hospital, with changes to its proof, and check that it is told why not."""
    hospital.open()
    hospital.say(hello=hospital.hello())
    hospital.say(proof=hospital.proof(hospital.hear("challenge").challenge, **changes))
    frame = hospital.hear("refusal")
    assert type(unpack_refusal(frame.refusal.reason)) is kind
    with pytest.raises(grpc.RpcError) as raised:
        hospital.hear()
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED


def journaled(lab: Coordinator, *facts: str) -> None:
    (sentence,) = lab.sentences()
    assert all(fact in sentence for fact in facts), sentence


def test_an_enrolled_hospital_is_welcome_and_online(lab: Coordinator, ward: Ward) -> None:
    welcome = ward.hospital(lab.credentials("st-mary")).attend()
    assert (welcome.site, welcome.heartbeat_ms) == ("st-mary", 200)
    assert abs(welcome.time - time.time()) < 5.0
    (node,) = lab.grid.get_nodes()
    assert node.name == "st-mary"
    assert node.online_until > time.time() + 15.0
    assert lab.sentences() == []


def test_without_keys_the_name_is_what_the_hospital_says(
    plain: FleetServer, plain_ward: Ward
) -> None:
    assert plain_ward.hospital("st-mary").attend().site == ""
    assert [node.name for node in plain.grid.get_nodes()] == [""]


def test_who_only_asks_is_welcome_and_not_online(lab: Coordinator, ward: Ward) -> None:
    working, asking = (ward.hospital(lab.credentials("st-mary")) for _ in range(2))
    asking.open()
    asking.say(hello=asking.hello(client=""))
    asking.say(proof=asking.proof(asking.hear("challenge").challenge))
    welcome = asking.hear("welcome").welcome
    assert (welcome.site, welcome.session) == ("st-mary", b"")
    assert lab.grid.get_nodes() == []
    working.attend()
    assert lab.hospital("st-mary").handshake().site == "st-mary"


def test_no_key(lab: Coordinator, ward: Ward) -> None:
    known = lab.credentials("st-mary")
    stranger = ward.hospital(Credentials("st-mary", None, known.authority))
    refused(stranger, KeyMissing)
    journaled(lab, "no key")


def test_an_unknown_key(lab: Coordinator, ward: Ward) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    refused(ward.hospital(Credentials("st-mary", key, lab.authority)), KeyUnknown)
    journaled(lab, "not enrolled")


def test_a_revoked_key(lab: Coordinator, ward: Ward) -> None:
    known = lab.credentials("st-mary")
    lab.registry.revoke("st-mary", "left")
    refused(ward.hospital(known), KeyRevoked)
    journaled(lab, "st-mary", "revoked")


def test_another_site_s_key(lab: Coordinator, ward: Ward) -> None:
    lab.credentials("st-mary")
    john = lab.credentials("st-john")
    refused(ward.hospital(Credentials("st-mary", john.key, lab.authority)), KeyOfAnother)
    journaled(lab, "st-john", "st-mary")


def test_a_public_key_without_its_private_half(lab: Coordinator, ward: Ward) -> None:
    mary = lab.credentials("st-mary")
    forger = ward.hospital(
        Credentials("st-mary", ec.generate_private_key(ec.SECP384R1()), lab.authority)
    )
    forger.open()
    forger.say(hello=forger.hello())
    challenge = forger.hear("challenge").challenge
    proof = forger.proof(challenge)
    proof.key = ThinHospital(lab.address, mary).proof(challenge).key
    forger.say(proof=proof)
    assert type(unpack_refusal(forger.hear("refusal").refusal.reason)) is SignatureInvalid
    journaled(lab, "could not sign")


def test_a_clock_that_is_far_off(lab: Coordinator, ward: Ward) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    refused(hospital, ClockWrong, time=time.time() + 3600)
    journaled(lab, "3600 s")


@pytest.mark.parametrize("change", ["nonce", "site", "protocol"])
def test_a_signature_for_something_else(lab: Coordinator, ward: Ward, change: str) -> None:
    other = {"nonce": bytes(32), "site": "st-john", "protocol": 7}[change]
    hospital = ward.hospital(lab.credentials("st-mary"))
    refused(hospital, SignatureInvalid, **{change: other})


def test_what_is_signed_for_one_coordinator_is_worth_nothing_at_another(
    lab: Coordinator, ward: Ward, tmp_path: Path
) -> None:
    """A's operator asks a hospital of both to sign the nonce that B has drawn."""
    with coordinator(tmp_path / "other") as other:
        mary = lab.credentials("st-mary")
        assert mary.key is not None
        other.registry.enrol("st-mary", mary.key.public_key())
        relayed = Ward(other.address)
        thief = relayed.hospital(Credentials("st-mary", mary.key, other.authority))
        thief.open()
        thief.say(hello=thief.hello())
        nonce = thief.hear("challenge").challenge
        thief.say(proof=ThinHospital(lab.address, mary).proof(nonce))
        assert type(unpack_refusal(thief.hear("refusal").refusal.reason)) is SignatureInvalid
        honest = relayed.hospital(Credentials("st-mary", mary.key, other.authority))
        assert honest.attend().site == "st-mary"
        relayed.close()


def test_a_protocol_that_is_too_old(lab: Coordinator, ward: Ward) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    hospital.open()
    hospital.say(hello=hospital.hello(protocol=0))
    assert type(unpack_refusal(hospital.hear("refusal").refusal.reason)) is ProtocolRefused
    journaled(lab, "st-mary", "0.2.0")


def test_a_newer_protocol_is_spoken_as_the_coordinator_can(lab: Coordinator, ward: Ward) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    assert hospital.attend(protocol=99).site == "st-mary"


@pytest.mark.parametrize(
    "change",
    [
        {"site": "../x"},
        {"site": "\x1b[2J"},
        {"site": ""},
        {"client": "a\nb"},
        {"version": "\x1b[2J"},
        {"holding": ["x" * 100]},
        {"holding": ["x"] * 2_000},
    ],
    ids=str,
)
def test_a_hello_that_no_client_sends_is_refused_in_silence(
    lab: Coordinator, ward: Ward, change: dict[str, object]
) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    hospital.open()
    hospital.say(hello=hospital.hello(**change))
    with pytest.raises(grpc.RpcError) as raised:
        hospital.hear()
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert lab.sentences() == []


def test_a_second_client_is_refused_and_both_are_told(lab: Coordinator, ward: Ward) -> None:
    mary = lab.credentials("st-mary")
    first, second = ward.hospital(mary), ward.hospital(mary)
    first.attend()
    refused(second, KeyInUse)
    assert "st-mary" in first.hear("notice").notice.text
    journaled(lab, "A second client", "st-mary")
    assert len(lab.grid.get_nodes()) == 1


def test_without_keys_a_second_client_is_an_event(
    plain: FleetServer, plain_ward: Ward, events: list[tuple[str, str]]
) -> None:
    first, second = (plain_ward.hospital("st-mary") for _ in range(2))
    first.attend()
    refused(second, KeyInUse)
    assert [kind for kind, text in events if "second client" in text] == ["note"]


def test_a_second_client_takes_over_from_one_that_is_silent(lab: Coordinator, ward: Ward) -> None:
    mary = lab.credentials("st-mary")
    first, second = ward.hospital(mary), ward.hospital(mary)
    first.attend()
    first.fall_silent()
    second.attend()
    assert lab.sentences() == []
    assert second.work_of(lab.grid).type == "train"


def test_a_silent_line_is_cut(lab: Coordinator, ward: Ward) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    hospital.attend()
    hospital.fall_silent()
    until(lambda: not lab.grid.get_nodes(), lab.grid)
    with pytest.raises(StopIteration):
        hospital.hear()


def test_a_key_that_is_revoked_while_its_hospital_is_connected(
    lab: Coordinator, ward: Ward
) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    hospital.attend()
    lab.registry.revoke("st-mary", "left")
    reason = hospital.hear("refusal").refusal.reason
    assert type(unpack_refusal(reason)) is KeyRevoked
    with pytest.raises(grpc.RpcError) as raised:
        hospital.hear()
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert lab.grid.get_nodes() == []
    until(lab.sentences, lab.grid)
    journaled(lab, "st-mary", "revoked")
    with pytest.raises(grpc.RpcError) as raised:
        hospital.fetch("0" * 64)
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_who_has_no_session_gets_no_blob_and_leaves_none(lab: Coordinator, ward: Ward) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    hospital.session = b"guessed"
    for call in (
        lambda: hospital.fetch("0" * 64),
        lambda: hospital.offer("x", b"abc"),
        lambda: hospital.store(bytes(30_000_000)),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            call()
        assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_who_says_goodbye_is_gone_at_once(lab: Coordinator, ward: Ward) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    hospital.attend()
    assert lab.grid.wait_for_news(0)
    hospital.say(goodbye={"reason": "ended"})
    assert lab.grid.wait_for_news(5.0)
    assert lab.grid.get_nodes() == []
