"""Everybody who should be turned away is, with a plain message on both sides and a line in the
journal.
"""

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from polyclinic.errors import ServerUnreachable
from polyclinic.security.admission_errors import (
    REASONS,
    AdmissionRefused,
    AuthorityUnknown,
    CertificateExpired,
    HostNameWrong,
    KeyOfAnother,
    KeyRevoked,
    KeyUnknown,
    PlaintextRefused,
    TlsMissing,
    unpack_refusal,
)
from polyclinic.security.keys import PRIVATE, fingerprint, make_key
from polyclinic.security.kit import Kit
from polyclinic_client.network.connection import Connection
from polyclinic_demos.local_pki import kit_for, local_authority
from tests.server.fleet.coordinators import Coordinator, coordinator, open_server


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Coordinator]:
    with coordinator(tmp_path / "lab") as running:
        yield running


def refused(kind: type[AdmissionRefused], connection: Connection) -> str:
    with pytest.raises(kind) as raised:
        connection.handshake(5.0)
    assert type(raised.value) is kind
    return str(raised.value)


def journaled(lab: Coordinator, kind: type[AdmissionRefused], *facts: str) -> None:
    """Check the journal's only refusal, after a while: a thread records failed handshakes."""
    deadline = time.monotonic() + 5.0
    while not lab.sentences() and time.monotonic() < deadline:
        time.sleep(0.05)
    (sentence,) = lab.sentences()
    pattern = re.sub(r"\\{\w+\\}", ".*", re.escape(kind.coordinator))
    assert re.fullmatch(pattern, sentence), sentence
    assert all(fact in sentence for fact in facts), sentence


def test_an_enrolled_hospital_is_welcome_by_the_name_of_its_key(lab: Coordinator) -> None:
    welcome = lab.hospital("st-mary").handshake()
    assert welcome.site == "st-mary"
    assert abs(welcome.ahead_s) < 5.0
    assert welcome.days_left is not None and welcome.days_left > 390
    assert lab.sentences() == []


def test_an_unknown_key(lab: Coordinator, tmp_path: Path) -> None:
    known = lab.hospital("st-mary")
    mark = fingerprint(make_key(tmp_path / "other"))
    said = refused(KeyUnknown, replace(known, key=tmp_path / "other" / PRIVATE))
    assert mark in said and "hospital.pub" in said
    journaled(lab, KeyUnknown, mark)


def test_a_revoked_key(lab: Coordinator) -> None:
    hospital = lab.hospital("st-mary")
    hospital.handshake()
    lab.registry.revoke("st-mary", "left")
    time.sleep(1.1)  # what the coordinator knows may be a second old
    assert "st-mary" in refused(KeyRevoked, hospital)
    journaled(lab, KeyRevoked, "st-mary")


def test_another_sites_key(lab: Coordinator) -> None:
    mary, john = lab.hospital("st-mary"), lab.hospital("st-john")
    said = refused(KeyOfAnother, replace(mary, key=john.key))
    assert "st-mary" in said and "st-john" not in said  # whose key it is, is nobody's business
    journaled(lab, KeyOfAnother, "st-john", "st-mary")


def test_a_kit_of_another_coordinator(lab: Coordinator, tmp_path: Path) -> None:
    hospital = lab.hospital("st-mary")
    assert hospital.kit is not None
    other = local_authority(tmp_path / "other", 1).ca()
    refused(AuthorityUnknown, replace(hospital, kit=replace(hospital.kit, ca=other)))
    journaled(lab, AuthorityUnknown, "127.0.0.1")


def test_an_expired_certificate(tmp_path: Path) -> None:
    with coordinator(tmp_path / "lab", days=-1) as lab:
        said = refused(CertificateExpired, lab.hospital("st-mary"))
        assert "init --renew" in said
        journaled(lab, CertificateExpired, "init --renew")


def test_a_wrong_host_name(tmp_path: Path) -> None:
    with coordinator(tmp_path / "lab", host="coordinator.example.org") as lab:
        said = refused(HostNameWrong, lab.hospital("st-mary"))
        assert "init --renew --host NAME" in said
        journaled(lab, HostNameWrong, "init --renew --host NAME")


def test_plain_text_to_the_tls_port(lab: Coordinator) -> None:
    assert "--kit" in refused(PlaintextRefused, Connection(lab.address, "st-mary"))
    journaled(lab, PlaintextRefused, "127.0.0.1")


def test_tls_to_a_plain_port(lab: Coordinator, tmp_path: Path) -> None:
    hospital = lab.hospital("st-mary")
    with open_server(tmp_path / "plain") as plain:
        address = plain.address
        assert "does not speak TLS" in refused(TlsMissing, replace(hospital, server=address))
        assert Connection(address, "st-mary").handshake().site == ""


def test_the_same_refusal_is_one_line_a_minute(lab: Coordinator, tmp_path: Path) -> None:
    known = lab.hospital("st-mary")
    make_key(tmp_path / "other")
    for _ in range(3):
        refused(KeyUnknown, replace(known, key=tmp_path / "other" / PRIVATE))
    assert len(lab.sentences()) == 1


def test_looking_whether_the_port_is_open_is_no_refusal(lab: Coordinator) -> None:
    host, port = lab.address.split(":")
    for _ in range(3):
        socket.create_connection((host, int(port))).close()
    time.sleep(0.3)
    assert lab.sentences() == []


def test_a_renewed_certificate_is_taken_without_a_restart(tmp_path: Path) -> None:
    with coordinator(tmp_path / "lab", days=-1) as lab:
        hospital = lab.hospital("st-mary")
        refused(CertificateExpired, hospital)
        lab.authority.renew(("127.0.0.1",))
        welcome = hospital.handshake()
        assert welcome.site == "st-mary" and welcome.days_left and welcome.days_left > 390


def test_nobody_answers() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ServerUnreachable):
            Connection(f"127.0.0.1:{closed.getsockname()[1]}", "st-mary").handshake(2.0)


def test_every_reason_survives_the_wire() -> None:
    facts = {
        "who": "192.0.2.7",
        "key": "SHA256:x",
        "site": "a",
        "claimed": "b",
        "server": "h:1",
        "seconds": "9",
        "client": "0.1.0",
    }
    for kind in REASONS.values():
        found = unpack_refusal(kind(**facts).pack())
        assert (
            type(found) is kind
            and str(found) == str(kind(**facts))
            and found.told() == kind(**facts).told()
        )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"polyclinic": "no-such"}',
        '{"polyclinic": "unknown-key"}',
        "Missing metadata",
    ],
)
def test_what_is_no_refusal_is_none(text: str) -> None:
    assert unpack_refusal(text) is None


def test_a_kit_says_whose_it_is(lab: Coordinator) -> None:
    kit = Kit.read(kit_for(lab.authority, "st-mary"))
    assert (kit.site, kit.server) == ("st-mary", lab.address)
    assert "PRIVATE" not in kit.ca
