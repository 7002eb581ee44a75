"""Where a server can listen, and what it says where it cannot."""

import socket

import pytest

from polyclinic.errors import AddressForeign, BindFailed, HostUnknown, PortForbidden, PortTaken
from polyclinic.system import listening
from polyclinic.system.listening import claim_port, join_address, open_listener

SETTING = "deployment.port=NUMBER"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "::", "0.0.0.0", "localhost"])
def test_a_free_port_is_found_in_either_family(host: str) -> None:
    port = claim_port(host, 0, SETTING)
    assert claim_port(host, port, SETTING) == port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken(host: str) -> None:
    with open_listener(host, 0, SETTING, 1) as first:
        port = first.getsockname()[1]
        with pytest.raises(PortTaken, match=r"deployment\.port=NUMBER"):
            claim_port(host, port, SETTING)


def test_all_addresses_are_those_of_both_families() -> None:
    with open_listener("::", 0, SETTING, 5) as both:
        port = both.getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, port), timeout=5.0):
                both.accept()[0].close()


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_of_another_machine(host: str) -> None:
    with pytest.raises(AddressForeign, match=r"deployment\.host=ADDRESS"):
        claim_port(host, 0, SETTING)


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(HostUnknown, match="--host"):
        claim_port("nobody.invalid", 0, "--port")


def test_a_port_that_this_user_may_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(socket.socket):
        def bind(self, _address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(listening.socket, "socket", Forbidden)
    with pytest.raises(PortForbidden, match="1024") as raised:
        claim_port("127.0.0.1", 443, SETTING)
    assert isinstance(raised.value, BindFailed)


def test_an_address_is_written_with_brackets_once() -> None:
    assert join_address("::1", 5) == join_address("[::1]", 5) == "[::1]:5"
    assert join_address("localhost", 5) == "localhost:5"
