"""What a hospital finds out before it joins: every refusal, in both directions."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from polyclinic.errors import ServerUnreachable
from polyclinic.fleet import challenge
from polyclinic.fleet.protocol import PROTOCOL
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.security import keys
from polyclinic.security.admission_errors import (
    KEY_REASONS,
    AdmissionRefused,
    AuthorityUnknown,
    CertificateExpired,
    HostNameWrong,
    KeyMissing,
    PlaintextRefused,
    ProtocolRefused,
    TlsMissing,
)
from polyclinic.security.kit import Kit
from polyclinic.system.processes import free_port
from polyclinic_client.network.connection import Connection, make_connection
from polyclinic_client.network.introduction import RefusalUnknown
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from tests.client.fleet.coordinators import Coordinator, coordinating

FACTS = {
    "key": "SHA256:x",
    "site": "a",
    "claimed": "b",
    "seconds": "400",
    "who": "a client",
    "server": "s",
    "client": "c",
}


@contextlib.contextmanager
def serving(
    folder: Path, authority: Authority | None = None, host: str = "127.0.0.1"
) -> Iterator[Coordinator]:
    """Run a coordinator in a thread of its own."""
    up, down = threading.Event(), asyncio.Event()
    made: list[Coordinator] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with coordinating(folder, authority, host) as one:
            made.append(one)
            up.set()
            await down.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert up.wait(20.0)
        yield made[0]
    finally:
        loop.call_soon_threadsafe(down.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return local_authority(tmp_path_factory.mktemp("security"), free_port())


def enrolled(authority: Authority, site: str = "st-mary") -> Connection:
    return make_connection(None, None, kit_for(authority, site), None, insecure=False)


def plain(one: Coordinator) -> Connection:
    return make_connection(f"127.0.0.1:{one.port}", "a", None, None, insecure=True)


def test_without_keys_the_name_is_what_the_hospital_says(tmp_path: Path) -> None:
    with serving(tmp_path) as one:
        welcome = plain(one).handshake()
        assert (welcome.site, welcome.version, welcome.instance) == ("a", "0.1.0", one.instance)
        assert abs(welcome.ahead_s) < 5.0 and welcome.days_left is None
        assert one.hellos[0].client == "" and one.hellos[0].protocol == PROTOCOL
        assert one.streams == 0


def test_the_key_is_proved_for_this_coordinator_alone(tmp_path: Path, authority: Authority) -> None:
    with serving(tmp_path, authority) as one:
        welcome = enrolled(authority).handshake()
        assert welcome.site == "st-mary"
        assert welcome.days_left is not None and welcome.days_left > 300
        proof = one.proofs[0]
    another = keys.authority_digest(
        (local_authority(tmp_path / "another", 9092).folder / "ca.crt").read_text()
    )
    with pytest.raises(AdmissionRefused):
        challenge.verify(proof, challenge.new_nonce(), another, "st-mary", PROTOCOL)


@pytest.mark.parametrize("kind", KEY_REASONS, ids=lambda kind: kind.code)
def test_every_refusal_says_why(
    kind: type[AdmissionRefused], tmp_path: Path, authority: Authority
) -> None:
    with serving(tmp_path, authority) as one:
        one.refusal = kind(**FACTS)
        with pytest.raises(kind) as caught:
            enrolled(authority).handshake()
        assert str(caught.value) == str(one.refusal)


def test_a_refusal_of_a_newer_coordinator_is_shown(tmp_path: Path) -> None:
    class Newer(AdmissionRefused):
        code = "too-rainy"

    with serving(tmp_path) as one:
        one.refusal = Newer()
        with pytest.raises(RefusalUnknown, match="too-rainy"):
            plain(one).handshake()


def test_a_protocol_that_is_not_spoken_here_is_named(tmp_path: Path) -> None:
    with serving(tmp_path) as one:
        one.protocol = PROTOCOL + 1
        with pytest.raises(ProtocolRefused):
            plain(one).handshake()


def test_a_coordinator_that_wants_a_key_from_a_hospital_without(
    tmp_path: Path, authority: Authority
) -> None:
    with serving(tmp_path, authority):
        connection = replace(enrolled(authority), key=None)
        with pytest.raises(KeyMissing):
            connection.handshake()


def test_a_nonce_that_is_none_is_not_signed(authority: Authority) -> None:
    introduction = enrolled(authority).introduction()
    for nonce in (b"", b"a text that somebody wants signed"):
        asked = wire.Challenge(nonce=nonce, protocol=PROTOCOL)
        with pytest.raises(TlsMissing):
            introduction.prove(wire.FromCoordinator(challenge=asked))


def test_plain_text_to_tls_and_tls_to_plain_text(tmp_path: Path, authority: Authority) -> None:
    with serving(tmp_path, authority) as one, pytest.raises(PlaintextRefused):
        plain(one).handshake()
    with serving(tmp_path) as one, pytest.raises(TlsMissing):
        replace(enrolled(authority), server=f"127.0.0.1:{one.port}").handshake()


def test_certificates_that_are_not_trusted(tmp_path: Path, authority: Authority) -> None:
    other = local_authority(tmp_path / "other", 9092)
    connection = enrolled(authority)
    assert connection.kit is not None
    wrong = Kit.read(kit_for(other, "st-mary"))
    with serving(tmp_path / "store", authority) as one:
        with pytest.raises(AuthorityUnknown):
            replace(connection, kit=replace(connection.kit, ca=wrong.ca)).handshake()
        with pytest.raises(HostNameWrong):
            replace(connection, server=f"localhost:{one.port}").handshake()
    expired = local_authority(tmp_path / "expired", free_port())
    hospital = enrolled(expired)
    store = tmp_path / "expired-store"
    with serving(store, expired.renew(days=-1)), pytest.raises(CertificateExpired):
        hospital.handshake()


def test_nobody_answers() -> None:
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1"):
        Connection(f"127.0.0.1:{free_port()}", "a").handshake(2.0)


def test_something_else_answers() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ServerUnreachable, match="not a coordinator of polyclinic"):
            Connection(f"127.0.0.1:{port}", "a").handshake(5.0)
    finally:
        server.stop(0).wait()


def test_somebody_who_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ServerUnreachable):
            Connection(f"127.0.0.1:{port}", "a").handshake(1.0)


@pytest.mark.parametrize("server", ["[::1]:{port}", "::1:{port}"])
def test_addresses_of_ipv6(server: str, tmp_path: Path) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    authority = Authority.create(tmp_path / "security", ["::1"], free_port())
    with serving(tmp_path / "store", authority, "[::1]"):
        connection = replace(enrolled(authority), server=server.format(port=authority.port))
        assert connection.handshake().site == "st-mary"


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
