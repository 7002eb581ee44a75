"""The segmentation service's own folder: enough to serve, and no key but its own."""

import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from polyclinic.fleet.anchor import is_signed, sign_anchor
from polyclinic.fleet.wire.fleet_pb2 import Anchor
from polyclinic.security.keys import PUBLIC, make_key
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.enrolment.service import service_folder
from tests.server.cli.commands import Run
from tests.server.segmentation.segmentation_services import a_volume, caller, messages, service


@pytest.fixture
def security(tmp_path: Path, run_cli: Run) -> Path:
    folder = tmp_path / "security"
    asked = ("init", "--host", "coordinator.example.org", "--service-host", "127.0.0.1")
    assert run_cli(*asked, "--folder", str(folder)).returncode == 0
    return folder


def active(folder: Path) -> list[str]:
    registry = Registry(folder)
    try:
        return [key.site for key in registry.everybody() if key.active]
    finally:
        registry.close()


def test_it_holds_a_certificate_of_its_own_and_no_other_private_key(security: Path) -> None:
    place = service_folder(security)
    assert place == security / "segmentation" and service_folder(place) == place
    found = Authority.open(place)
    assert found.hosts == ("127.0.0.1",) and found.ca() == (security / "ca.crt").read_text()
    certificate = x509.load_pem_x509_certificate((place / "server.crt").read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(found.ca().encode()))
    files = [path for path in place.rglob("*") if path.is_file()]
    secrets = [path for path in files if b"PRIVATE KEY" in path.read_bytes()[:200]]
    assert secrets == [place / "server.key"]
    assert secrets[0].read_bytes() != (security / "server.key").read_bytes()


def test_its_certificate_does_not_speak_for_the_journal(security: Path) -> None:
    def signed_in(place: Path) -> Anchor:
        certificate = x509.load_pem_x509_certificate((place / "server.crt").read_bytes())
        key = serialization.load_pem_private_key((place / "server.key").read_bytes(), None)
        assert bool(certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME))
        return sign_anchor(Anchor(journal="j", sequence=1, hash="a"), key, certificate)

    assert not is_signed(signed_in(security / "segmentation"), (security / "ca.crt").read_text())


def test_it_knows_who_is_enrolled_and_who_is_not_any_more(
    security: Path, tmp_path: Path, run_cli: Run
) -> None:
    for site in ("st-mary", "st-john"):
        make_key(tmp_path / site)
        key = str(tmp_path / site / PUBLIC)
        assert run_cli("enrol", site, key, "--security", str(security)).returncode == 0
    assert active(security / "segmentation") == active(security) == ["st-john", "st-mary"]
    revoking = ("enrol", "revoke", "st-john", "--reason", "left", "--security", str(security))
    assert run_cli(*revoking).returncode == 0
    assert active(security / "segmentation") == active(security) == ["st-mary"]


def test_renewal_makes_it_for_a_folder_of_an_older_version_and_keeps_its_names(
    security: Path, tmp_path: Path, run_cli: Run
) -> None:
    renew = ("init", "--renew", "--folder", str(security))
    before = (security / "segmentation" / "server.crt").read_bytes()
    assert run_cli(*renew).returncode == 0
    assert (security / "segmentation" / "server.crt").read_bytes() != before
    assert Authority.open(security / "segmentation").hosts == ("127.0.0.1",)
    make_key(tmp_path / "st-mary")
    Registry(security).enrol("st-mary", make_key(tmp_path / "other"))
    shutil.rmtree(security / "segmentation")
    assert service_folder(security) == security
    assert run_cli(*renew).returncode == 0
    assert Authority.open(security / "segmentation").hosts == ("coordinator.example.org",)
    assert active(security / "segmentation") == ["st-mary"]


def test_a_hospital_is_served_by_a_service_that_has_this_folder_alone(tmp_path: Path) -> None:
    with service(tmp_path, alone=True) as lab, caller(lab.hospital("st-mary")) as mary:
        assert mary.ask(messages(a_volume()))
