"""Hospitals that come by IPv6: settings, certificates, kits, and what they are told to dial."""

from pathlib import Path

import pytest

from polyclinic.config.compose import load_config
from polyclinic.errors import AddressForeign
from polyclinic.security.admission_errors import PlaintextRefused
from polyclinic.security.keys import PRIVATE, load_private_key
from polyclinic.system.listening import claim_port
from polyclinic_client.network.connection import Connection, make_connection
from polyclinic_demos.local_pki import kit_for
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.endpoint import Endpoint, endpoint_of
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.fleet.server import FleetServer
from tests.server.fleet.thin_hospital import Credentials, ThinHospital


@pytest.mark.parametrize("host", ["::", "::1"])
def test_a_hospital_joins_and_works_by_its_kit(host: str, tmp_path: Path) -> None:
    authority = Authority.create(
        tmp_path / "security", ["[::1]", "127.0.0.1"], claim_port("::1", 0, "--port")
    )
    asked = [f"deployment.host='{host}'", f"deployment.security={authority.folder}"]
    place = endpoint_of(load_config(asked).deployment)
    assert place.host == host
    kit = kit_for(authority, "st-mary")
    connection = make_connection(None, None, kit, None, insecure=False)
    assert connection.server == f"[::1]:{authority.port}"
    with FleetServer(place, tmp_path / "fleet") as server:
        assert connection.handshake(10.0).site == "st-mary"
        key = load_private_key(kit.parent / PRIVATE)
        hospital = ThinHospital(connection.server, Credentials("st-mary", key, authority))
        assert hospital.attend().site == "st-mary"
        question = hospital.work_of(server.grid)
        assert hospital.reply(question.message_id) == question.message_id
        hospital.close()
        if host == "::":
            by_ipv4 = make_connection(
                f"127.0.0.1:{authority.port}", None, kit, None, insecure=False
            )
            assert by_ipv4.handshake(10.0).site == "st-mary"
            with pytest.raises(PlaintextRefused):
                Connection(f"127.0.0.1:{authority.port}", "st-mary").handshake(5.0)
    if host == "::":
        registry = Registry(authority.folder)
        (sentence,) = registry.refusals(0)[1]
        registry.close()
        assert sentence.startswith("127.0.0.1 ")  # not as a mapped address


def test_plain_text_on_loopback(tmp_path: Path) -> None:
    with FleetServer(Endpoint("::1", 0, None), tmp_path / "fleet") as server:
        assert server.address.startswith("[::1]:")
        connection = make_connection(server.address, "st-mary", None, None, insecure=True)
        connection.handshake(10.0)
        hospital = ThinHospital(server.address, Credentials("st-mary"))
        hospital.attend()
        hospital.work_of(server.grid)
        hospital.close()


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    with pytest.raises(AddressForeign, match=r"2001:db8::1.*deployment\.host=ADDRESS"):
        FleetServer(Endpoint("2001:db8::1", 0, None), tmp_path / "fleet")
