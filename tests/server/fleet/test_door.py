"""Who has not shown a key costs little, and keeps nobody out."""

import asyncio
import socket
import ssl
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace

import psutil
import pytest

from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.fleet import door, lobby, pipe
from polyclinic_server.fleet.lobby import MOST_FROM_ADDRESS, Guest, Lobby
from polyclinic_server.fleet.pipe import Pipe
from polyclinic_server.fleet.tls_pipe import TlsPipe
from tests.server.fleet.coordinators import Coordinator, until
from tests.server.fleet.thin_hospital import Ward

EXTRA = 150  # connections beyond the limit
MEMORY_MB = 60


def connect(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


@contextmanager
def silent(address: str, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connect(address)) for _ in range(count)]


def open_ones(connections: list[socket.socket]) -> int:
    """Count the connections that the other side has not closed."""
    found = 0
    for each in connections:
        each.setblocking(False)
        try:
            each.recv(1)
        except BlockingIOError:
            found += 1
        except ConnectionError:
            continue
    return found


def handshake(address: str, authority: Authority) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=authority.ca())
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(connect(address), server_hostname="127.0.0.1")


def test_silent_connections_keep_no_hospital_out(lab: Coordinator, ward: Ward) -> None:
    before = psutil.Process().memory_info().rss
    with silent(lab.address, MOST_FROM_ADDRESS + EXTRA) as connections:
        hospital = ward.hospital(lab.credentials("st-mary"))
        assert hospital.attend().site == "st-mary"
        assert hospital.work_of(lab.grid).type == "train"
        assert open_ones(connections) < MOST_FROM_ADDRESS
        assert psutil.Process().memory_info().rss - before < MEMORY_MB * 2**20
    assert len(lab.grid.get_nodes()) == 1


def test_those_that_speak_tls_and_then_stay_silent_do_not_either(
    lab: Coordinator, ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lobby, "MOST_FROM_ADDRESS", 20)
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(handshake(lab.address, lab.authority))
        hospital = ward.hospital(lab.credentials("st-mary"))
        assert hospital.attend().site == "st-mary"


def test_a_connection_that_says_nothing_keeps_no_buffer(lab: Coordinator) -> None:
    """asyncio's own TLS would keep 256 kB for each."""
    with ExitStack() as stack:
        stack.enter_context(handshake(lab.address, lab.authority))  # what is made once
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(40):
            stack.enter_context(handshake(lab.address, lab.authority))
        assert tracemalloc.get_traced_memory()[0] < 40 * 32 * 1024


def test_one_sent_away_when_tls_has_begun_leaves_its_number_to_others(
    lab: Coordinator, ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    shake_hands, has_shaken = door.Door._shake_hands, TlsPipe._has_shaken
    tasks: list[asyncio.Task[None]] = []

    async def note(self: door.Door, connection: socket.socket, guest: Guest) -> Pipe | None:
        if not enough():
            tasks.append(guest.task)
        return await shake_hands(self, connection, guest)

    def send_away(self: TlsPipe) -> bool:
        done = has_shaken(self)
        if done and tasks:
            asyncio.get_running_loop().call_soon(tasks.pop().cancel)
        return done

    seen: list[socket.socket] = []

    def enough() -> bool:
        return len(seen) >= 10

    monkeypatch.setattr(door.Door, "_shake_hands", note)
    monkeypatch.setattr(TlsPipe, "_has_shaken", send_away)
    with ExitStack() as stack:
        while not enough():
            seen.append(stack.enter_context(handshake(lab.address, lab.authority)))
            with suppress(ConnectionError):
                assert not seen[-1].recv(1)
        hospital = ward.hospital(lab.credentials("st-mary"))
        assert hospital.attend().site == "st-mary"


def test_a_hospital_that_has_shown_its_key_is_not_sent_away(lab: Coordinator, ward: Ward) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    hospital.attend()
    with silent(lab.address, MOST_FROM_ADDRESS + EXTRA):
        assert hospital.work_of(lab.grid).type == "train"
    assert len(lab.grid.get_nodes()) == 1


def test_who_shows_nothing_is_sent_away_after_a_while(
    lab: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lobby, "UNPROVED_S", 0.3)
    with silent(lab.address, 1) as (one,), handshake(lab.address, lab.authority) as other:
        start = time.monotonic()
        assert one.recv(1) == b""
        with pytest.raises((ssl.SSLEOFError, ConnectionError)):
            if other.recv(1) == b"":
                raise ConnectionError
        assert time.monotonic() - start < 5.0


def test_a_stranger_cannot_send_much(lab: Coordinator) -> None:
    """Beyond some bytes, nobody reads what it sends."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    ping = bytes([0, 0, 8, 6, 1, 0, 0, 0, 0]) + bytes(8)  # acknowledgements: nobody answers them
    with handshake(lab.address, lab.authority) as stranger:
        stranger.settimeout(1.0)
        stranger.sendall(preface)
        sent = 0
        with pytest.raises((TimeoutError, OSError)):
            while sent < 200 * 2**20:
                sent += stranger.send(ping * 4096)
        assert sent < 50 * 2**20


def test_the_network_with_most_connections_loses_its_oldest_silent_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lobby, "MOST", 6)
    gone: list[str] = []

    def guest(who: str, name: str) -> Guest:
        task = SimpleNamespace(cancel=lambda: gone.append(name))
        return Guest(who, task)  # type: ignore[arg-type]

    async def fill() -> int:
        waiting = Lobby()
        honest = guest("192.0.2.1", "honest")
        waiting.enter(honest)
        for number in range(8):
            waiting.enter(guest(f"2001:db8::{number:x}", f"flood {number}"))
        waiting.leave(honest)
        waiting.leave(honest)
        return len(waiting)

    assert asyncio.run(fill()) == 5
    assert gone == ["flood 0", "flood 1", "flood 2"]


def crowd(count: int, age_s: float = 0.0, silent: int = 0) -> list[int]:
    """Fill one address twice with those that speak TLS; return the numbers of those who stay."""
    stay = set(range(2 * count))

    async def fill() -> None:
        waiting = Lobby()
        for number in range(2 * count):
            task = SimpleNamespace(cancel=lambda number=number: stay.discard(number))
            since = time.monotonic() - (age_s if number < count else 0.0)
            spoke = number >= silent
            waiting.enter(Guest("192.0.2.1", task, spoke, since))  # type: ignore[arg-type]

    asyncio.run(fill())
    return sorted(stay)


def test_a_crowd_that_comes_back_at_once_does_not_push_out_all_who_came_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lobby, "MOST_FROM_ADDRESS", 200)
    early = [number for number in crowd(200) if number < 200]
    assert 20 < len(early) < 180  # 74 of 200 on the average


def test_silent_ones_go_first_then_those_that_had_time_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lobby, "MOST_FROM_ADDRESS", 50)
    assert set(range(50)).isdisjoint(crowd(50, age_s=lobby.ENOUGH_S + 1))
    assert set(range(50)).isdisjoint(crowd(50, silent=50))


def test_one_network_of_ipv6_is_counted_together() -> None:
    task = SimpleNamespace(cancel=None)

    def network(who: str) -> str:
        return Guest(who, task).network  # type: ignore[arg-type]

    assert network("2001:db8::1") == network("2001:db8::ffff:1") != network("2001:db8:0:1::1")
    assert network("fe80::1%eth0") == network("fe80::2%eth0")
    assert network("::ffff:192.0.2.1") != network("::ffff:192.0.2.2")
    assert network("192.0.2.1") != network("192.0.2.2")


def test_a_health_check_is_no_refusal(lab: Coordinator, ward: Ward) -> None:
    with silent(lab.address, 3):
        pass
    handshake(lab.address, lab.authority).close()
    ward.hospital(lab.credentials("st-mary")).attend()
    until(lab.grid.get_nodes, lab.grid)
    assert lab.sentences() == []


def test_limits_are_those_that_the_documents_name() -> None:
    assert (lobby.MOST_FROM_ADDRESS, lobby.MOST, lobby.UNPROVED_S) == (256, 1024, 30.0)
    assert pipe.UNPROVED_BYTES <= 2**16
    assert door.HANDSHAKE_S <= lobby.UNPROVED_S
