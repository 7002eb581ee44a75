"""The coordinator's folder: certificates by one authority, and a register that only grows."""

import ssl
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import DeploymentConfig
from polyclinic.errors import ConfigError
from polyclinic.security.admission_errors import KeyMissing, KeyOfAnother, KeyRevoked, KeyUnknown
from polyclinic.security.keys import fingerprint, make_key
from polyclinic.store.ledger import Ledger
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.endpoint import endpoint_of
from polyclinic_server.enrolment.registry import MOST_A_MINUTE, SOON_S, Registry
from tests.processes import run_cli

pytestmark = pytest.mark.usefixtures("nursed")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "security", ["coordinator.example.org", "192.0.2.7"], 9443)


def deployment(
    folder: Path, host: str | None = None, port: int | None = None, *, insecure: bool = False
) -> DeploymentConfig:
    plain = load_config().deployment
    return replace(plain, host=host, port=port, security=str(folder), insecure=insecure)


def test_secrets_are_readable_by_their_owner_alone(authority: Authority) -> None:
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((authority.folder / name).stat().st_mode) == 0o600


def test_the_server_s_certificate_is_of_the_authority_and_for_its_names(
    authority: Authority,
) -> None:
    certificate = x509.load_pem_x509_certificate((authority.folder / "server.crt").read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.ca().encode()))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["coordinator.example.org", "192.0.2.7"]
    assert authority.context().minimum_version == ssl.TLSVersion.TLSv1_2
    assert authority.address == "coordinator.example.org:9443"
    assert Authority.open(authority.folder) == authority


def test_an_authority_is_not_made_twice(authority: Authority) -> None:
    before = authority.ca()
    with pytest.raises(ConfigError, match="--renew"):
        Authority.create(authority.folder, ["other"], 1)
    assert authority.ca() == before


def test_renewal_keeps_the_authority_and_may_change_the_names(authority: Authority) -> None:
    before, ends = authority.ca(), authority.expires()
    renewed = authority.renew(["new.example.org"], 9444)
    assert renewed.ca() == before
    assert Authority.open(authority.folder).address == "new.example.org:9444"
    assert renewed.expires() >= ends


@pytest.mark.parametrize(("days", "expired"), [(5, False), (-1, True)])
def test_a_certificate_near_its_end_is_announced(
    days: int, expired: bool, authority: Authority
) -> None:
    assert authority.warning() is None and not authority.has_expired()
    renewed = authority.renew(days=days)
    assert renewed.has_expired() is expired
    warning = str(renewed.warning())
    assert f"{renewed.expires():%Y-%m-%d}" in warning and "init --renew" in warning
    assert ("4 days" in warning) is not expired


@pytest.mark.parametrize("host", ["", "https://a", "a b", "a:9092", "-a", "a..b"])
def test_a_host_that_cannot_be_in_a_certificate_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--host"):
        Authority.create(tmp_path / "security", [host], 1)
    assert not (tmp_path / "security" / "ca.key").exists()


def test_one_key_one_site(authority: Authority, tmp_path: Path) -> None:
    registry = Registry(authority.folder)
    first, second = make_key(tmp_path / "1"), make_key(tmp_path / "2")
    # the same again changes nothing
    assert registry.enrol("a", first) == registry.enrol("a", first)
    with pytest.raises(ConfigError, match=r"key of a\b"):
        registry.enrol("b", first)
    with pytest.raises(ConfigError, match="enrol revoke"):
        registry.enrol("a", second)
    registry.revoke("a", "lost")
    with pytest.raises(ConfigError, match="keygen"):
        registry.enrol("a", first)
    assert registry.enrol("a", second).active
    assert [(key.site, key.active) for key in registry.everybody()] == [("a", False), ("a", True)]


def test_another_process_sees_it(authority: Authority, tmp_path: Path) -> None:
    one, other = Registry(authority.folder), Registry(authority.folder)
    key = make_key(tmp_path / "1")
    assert other.find(fingerprint(key)) is None
    one.enrol("a", key)
    assert [key.site for key in other.everybody()] == ["a"]


def test_who_was_enrolled_a_moment_ago_is_no_stranger(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 100.0
    monkeypatch.setattr(
        "polyclinic_server.enrolment.registry.time", SimpleNamespace(monotonic=lambda: moment)
    )
    key, door = make_key(tmp_path / "new"), Registry(authority.folder)
    assert door.find(fingerprint(key)) is None
    Registry(authority.folder).enrol("st-mary", key)
    moment += SOON_S / 2
    assert door.find(fingerprint(key)) is None  # strangers do not make us read again and again
    moment += SOON_S
    found = door.find(fingerprint(key))
    assert found is not None and found.site == "st-mary"


def test_nobody_is_revoked_who_was_not_enrolled(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        Registry(authority.folder).revoke("a", "x")


def test_the_journal_is_a_ledger_s_and_sound(authority: Authority, tmp_path: Path) -> None:
    registry = Registry(authority.folder)
    registry.enrol("a", make_key(tmp_path / "1"))
    registry.revoke("a", "left")
    with Ledger.open(authority.folder / "journal", create=False) as ledger:
        assert [line.kind for line in ledger.history()] == ["opened", "enrolled", "revoked"]
        assert ledger.verify() is None


def test_plain_text_is_for_loopback_alone(tmp_path: Path) -> None:
    assert endpoint_of(deployment(tmp_path, insecure=True)).host == "127.0.0.1"
    for host in ("0.0.0.0", "192.0.2.7", "example.org"):
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1"):
            endpoint_of(deployment(tmp_path, host, insecure=True))


def test_without_keys_a_coordinator_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="polyclinic-server init"):
        endpoint_of(deployment(tmp_path / "none"))


def test_an_expired_certificate_ends_a_coordinator_before_it_begins(authority: Authority) -> None:
    assert endpoint_of(deployment(authority.folder)).port == 9443
    authority.renew(days=-1)
    with pytest.raises(ConfigError, match="--renew"):
        endpoint_of(deployment(authority.folder))


def test_from_the_commands_alone(tmp_path: Path) -> None:
    """What a coordinator and a hospital type, in their order."""
    security, keys = str(tmp_path / "security"), tmp_path / "keys"
    steps = [
        ("polyclinic_server.cli.main", "init", "--host", "127.0.0.1", "--folder", security),
        ("polyclinic_client.cli.main", "keygen", "--folder", str(keys)),
        (
            "polyclinic_server.cli.main",
            "enrol",
            "st-mary",
            str(keys / "hospital.pub"),
            "--security",
            security,
            "--to",
            str(keys / "kit.json"),
        ),
        ("polyclinic_server.cli.main", "enrol", "list", "--security", security),
        (
            "polyclinic_server.cli.main",
            "enrol",
            "revoke",
            "st-mary",
            "--reason",
            "left",
            "--security",
            security,
        ),
        ("polyclinic_server.cli.main", "enrol", "list", "--security", security),
        ("polyclinic_server.cli.main", "init", "--renew", "--folder", security),
    ]
    said = [run_cli(*step) for step in steps]
    assert [done.returncode for done in said] == [0] * len(steps), [done.stderr for done in said]
    assert "active" in said[3].stdout and "revoked" in said[5].stdout and "left" in said[5].stdout
    wrong = run_cli(
        "polyclinic_server.cli.main",
        "enrol",
        "st-mary",
        str(keys / "hospital.key"),
        "--security",
        security,
    )
    assert wrong.returncode == 2 and "private key" in wrong.stderr


def test_a_flood_of_strangers_does_not_fill_the_journal(authority: Authority) -> None:
    registry = Registry(authority.folder)
    for number in range(3 * MOST_A_MINUTE):
        registry.note(KeyMissing(who=f"client {number}"), f"client {number}")
    assert len(registry.refusals(0)[1]) == MOST_A_MINUTE


def test_strangers_cannot_keep_a_revoked_key_out_of_the_journal(authority: Authority) -> None:
    registry = Registry(authority.folder)
    for number in range(3 * MOST_A_MINUTE):
        registry.note(KeyUnknown(key=f"SHA256:{number}"), f"SHA256:{number}")
    refusal = KeyRevoked(key="SHA256:mary", site="st-mary")
    registry.note(refusal, "SHA256:mary", "st-mary")
    assert registry.refusals(0)[1][MOST_A_MINUTE:] == [refusal.told()]


def test_a_hospital_cannot_use_up_the_lines_of_strangers(authority: Authority) -> None:
    registry = Registry(authority.folder)
    for number in range(3 * MOST_A_MINUTE):
        registry.note(KeyOfAnother(key="k", site="a", claimed="b"), f"key {number}", "a")
    registry.note(KeyUnknown(key="SHA256:new"), "SHA256:new")
    assert len(registry.refusals(0)[1]) == MOST_A_MINUTE + 1
