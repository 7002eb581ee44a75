"""Proxies: whom they are asked for, what goes through them, and what is said when they refuse."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from polyclinic.errors import ConfigError, ServerUnreachable
from polyclinic.security.admission_errors import AuthorityUnknown, HostNameWrong
from polyclinic.system.processes import free_port
from polyclinic_client.network.connection import Connection, make_connection
from polyclinic_client.network.proxy import (
    EXCEPTIONS,
    VARIABLES,
    ProxyFailed,
    is_excepted,
    is_loopback,
    parse_proxy,
    proxy_for,
)
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from tests.client.fleet.connect_proxies import proxying
from tests.client.fleet.coordinators import coordinating
from tests.client.fleet.hospitals import hospital
from tests.client.fleet.test_handshake import serving

HOST = "coordinator.test"  # a name that only the proxy knows
PROXY = {"https_proxy": "http://proxy:3128"}
TINYPROXY = shutil.which("tinyproxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *EXCEPTIONS, "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "security", [HOST], free_port())


def enrolled(authority: Authority) -> Connection:
    return make_connection(None, None, kit_for(authority, "st-mary"), None, insecure=False)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"],
)
def test_what_is_on_this_machine_goes_to_no_proxy(host: str) -> None:
    assert is_loopback(host)
    for name in VARIABLES:
        assert proxy_for(host, 9092, {name: "http://proxy:3128"}) is None


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_variable_names_a_proxy(variable: str) -> None:
    found = proxy_for("far.org", 9092, {variable: "http://proxy:3128", "http_proxy": "http://no"})
    assert found is not None
    assert (found.host, found.port, found.variable) == ("proxy", 3128, variable)
    assert proxy_for("far.org", 9092, {variable: " "}) is None


def test_http_proxy_is_for_others() -> None:
    assert proxy_for("far.org", 9092, {"http_proxy": "http://p:1", "HTTP_PROXY": "http://p:1"}) is (
        None
    )


@pytest.mark.parametrize(
    ("url", "host", "port", "credentials"),
    [
        ("http://proxy", "proxy", 80, ""),
        ("proxy:3128", "proxy", 3128, ""),
        ("http://[2001:db8::1]:3128/", "2001:db8::1", 3128, ""),
        ("http://me:p%40ss%3A1@proxy:8080", "proxy", 8080, "me:p@ss:1"),
        ("http://me@proxy:8080", "proxy", 8080, "me:"),
    ],
)
def test_a_proxys_url(url: str, host: str, port: int, credentials: str) -> None:
    found = parse_proxy("https_proxy", url)
    assert (found.host, found.port, found.credentials) == (host, port, credentials)
    assert not credentials or "p@ss" not in f"{found} {found!r}"


@pytest.mark.parametrize("url", ["socks5://me:secret@p:1", "https://p:1", "http://", "http://p:x"])
def test_what_is_no_proxy_is_named_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match="environment variable all_proxy") as caught:
        parse_proxy("all_proxy", url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("exceptions", "host", "excepted"),
    [
        ("*", "far.org", True),
        ("far.org", "far.org", True),
        ("FAR.org.", "far.ORG", True),
        ("far.org", "a.far.org", True),
        ("far.org", "nofar.org", False),
        (".far.org", "a.far.org", True),
        (".far.org", "far.org", True),
        ("*.far.org", "a.b.far.org", True),
        (".far.org", "nofar.org", False),
        ("near.org, far.org", "far.org", True),
        ("near.org far.org", "far.org", True),
        ("far.org:9092", "far.org", True),
        ("far.org:443", "far.org", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:9092", "10.1.2.3", True),
        ("10.1.2.3:1", "10.1.2.3", False),
        ("10.1.2.3/24", "10.1.2.77", True),
        ("2001:db8::/32", "2001:db8::7", True),
        ("2001:db8::7", "2001:DB8:0::7", True),
        ("[2001:db8::7]", "2001:db8::7", True),
        ("[2001:db8::7]:9092", "2001:db8::7", True),
        ("[2001:db8::7]:1", "2001:db8::7", False),
        ("10.0.0.0/8", "ten.org", False),
        ("", "far.org", False),
        (",,", "far.org", False),
    ],
)
def test_exceptions(exceptions: str, host: str, excepted: bool) -> None:
    assert is_excepted(host, 9092, exceptions) == excepted
    for name in EXCEPTIONS:
        assert (proxy_for(host, 9092, {**PROXY, name: exceptions}) is None) == excepted


def test_the_handshake_and_the_line_go_through_the_proxy_with_tls_whole(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3_000_000)

    async def whole() -> None:
        async with coordinating(tmp_path / "store", authority) as one:
            with proxying(one.port, "me:p@ss") as proxy:
                way = f"http://me:p%40ss@127.0.0.1:{proxy.port}"
                monkeypatch.setenv("HTTPS_PROXY", way)
                connection = enrolled(authority)
                welcome = await asyncio.to_thread(connection.handshake)
                assert welcome.site == "st-mary"
                async with hospital(connection, tmp_path / "state") as other:
                    reply = await one.ask(one.question("hash", content))
                    assert reply.content.records
                    proxy.cut()
                    await one.until(lambda: len(one.hellos) == 3)
                    await one.ask(one.question("hash"))
                    assert "the coordinator answers; joining again" in other.said
            assert set(proxy.asked) == {f"CONNECT {HOST}:{authority.port} HTTP/1.1"}
            assert b"st-mary" not in proxy.carried and b"polyclinic" not in proxy.carried

    asyncio.run(whole())


def test_certificates_are_checked_through_the_proxy(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = local_authority(tmp_path / "other", free_port())
    connection = enrolled(authority)
    with serving(tmp_path / "store", other) as one, proxying(one.port) as proxy:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
        with pytest.raises(AuthorityUnknown):
            connection.handshake()
    named = Authority.create(tmp_path / "named", ["another.test"], free_port())
    strange = make_connection(
        f"{HOST}:{named.port}", None, kit_for(named, "st-mary"), None, insecure=False
    )
    with serving(tmp_path / "store2", named) as one, proxying(one.port) as proxy:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
        with pytest.raises(HostNameWrong):
            strange.handshake()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("HTTP/1.1 403 Forbidden\r\n\r\n", r"it refuses \(403 Forbidden\).*Ask its operator"),
        ("HTTP/1.1 407 Who\x1b are you\r\n\r\n", "wants a user and a password"),
        ("SSH-2.0-OpenSSH\r\n", "speaks no HTTP"),
    ],
)
def test_what_a_proxy_says_is_said(
    answer: str, said: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxying(9, answer=answer) as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{proxy.port}")
        with pytest.raises(ProxyFailed, match=said) as caught:
            enrolled(authority).handshake(3.0)
        told = str(caught.value)
        assert f"http://127.0.0.1:{proxy.port}" in told and "https_proxy" in told
        assert "secret" not in told and told.isprintable()


def test_a_proxy_that_is_not_there_is_named(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ServerUnreachable, match=r"grpc_proxy.*does not answer.*no_proxy"):
        enrolled(authority).handshake(3.0)


def test_grpc_asks_no_proxy_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(tmp_path) as one:
        assert Connection(f"127.0.0.1:{one.port}", "a").handshake().site == "a"


@pytest.mark.skipif(TINYPROXY is None, reason="tinyproxy is not installed")
@pytest.mark.parametrize("password", ["word", "wrong"])
def test_tinyproxy(password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = "0.0.0.0"  # this machine, by an address that is not one of loopback's
    authority = Authority.create(tmp_path / "security", [host], free_port())
    port = free_port()
    settings = tmp_path / "tinyproxy.conf"
    settings.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 60\nBasicAuth me word\nConnectPort "
        f'{authority.port}\nPidFile "{tmp_path / "pid"}"\n'
    )
    assert TINYPROXY is not None
    process = subprocess.Popen([TINYPROXY, "-d", "-c", str(settings)], stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        monkeypatch.setenv("https_proxy", f"http://me:{password}@127.0.0.1:{port}")
        with serving(tmp_path / "store", authority):
            if password == "word":
                assert enrolled(authority).handshake().site == "st-mary"
            else:
                with pytest.raises(ProxyFailed, match="wants a user and a password"):
                    enrolled(authority).handshake(5.0)
    finally:
        process.terminate()
        process.wait(10.0)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10.0
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
