"""Keys, kits and the security folder of version 0.1.0."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from polyclinic.config.release import Release
from polyclinic.security.keys import fingerprint, load_private_key, load_public_key
from polyclinic.security.kit import Kit
from polyclinic_client.policy.policy import read_policy
from polyclinic_client.site.outbox import Outbox
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.registry import Registry
from tests.compatibility.conftest import Run
from tests.compatibility.kept import SITES, figures, said


@pytest.mark.parametrize("site", SITES)
def test_a_kit_belongs_to_the_key_that_was_enrolled(kept: Path, site: str) -> None:
    folder = kept / "keys" / site
    kit = Kit.read(folder / f"{site}.kit.json")
    public = load_public_key(folder / "hospital.pub")
    assert kit.site == site
    assert kit.key == fingerprint(public)
    assert fingerprint(load_private_key(folder / "hospital.key").public_key()) == kit.key
    assert kit.ca == Authority.open(kept / "security").ca()
    assert kit.server == Authority.open(kept / "security").address
    enrolled = Registry(kept / "security").find(kit.key)
    assert enrolled is not None and enrolled.active and enrolled.site == site


def test_a_revoked_key_stays_revoked(kept: Path, run: Run) -> None:
    registry = Registry(kept / "security")
    (revoked,) = (each for each in registry.everybody() if not each.active)
    registry.close()
    assert (revoked.site, revoked.reason) == ("st-elsewhere", "made a new key")
    listed = run("polyclinic-server", "enrol", "list", "--security", kept / "security")
    assert listed.returncode == 0
    for site in (*SITES, "st-john", "discs", "blobs", "st-elsewhere"):
        assert site in listed.stdout and site in said("enrol list")


def test_its_journal_is_sound(kept: Path, run: Run) -> None:
    journal = kept / "security" / "journal"
    verified = run("polyclinic-server", "ledger", "verify", "--ledger", journal)
    assert verified.returncode == 0
    assert figures(verified.stdout) == figures(said("journal verify")) != []


def test_its_certificate_can_be_renewed_and_kits_stay_good(kept: Path, run: Run) -> None:
    security = kept / "security"
    renewed = run("polyclinic-server", "init", "--renew", "--folder", security)
    assert renewed.returncode == 0, renewed.stderr
    certificate = x509.load_pem_x509_certificate((security / "server.crt").read_bytes())
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=300)
    kit = Kit.read(kept / "keys" / SITES[0] / f"{SITES[0]}.kit.json")
    authority = x509.load_pem_x509_certificate(kit.ca.encode())
    certificate.verify_directly_issued_by(authority)


def test_a_hospital_checks_an_old_kit_and_says_that_nobody_answers(kept: Path, run: Run) -> None:
    site = SITES[0]
    folder = kept / "keys" / site
    words = ("--kit", folder / f"{site}.kit.json", "--server", "127.0.0.1:1", "--state", "state")
    checked = run("polyclinic-client", "check", "--data", kept / "data" / site, *words)
    assert checked.returncode in (3, 4)  # images are missing, and nobody listens
    assert "127.0.0.1:1" in checked.stdout + checked.stderr


def test_what_a_hospital_demands_and_has_in_its_outbox_is_known(kept: Path) -> None:
    state = kept / "states" / "spgr-1.5t"
    release = read_policy(state).release
    assert (release.min_subjects, release.noise_multiplier) == (2, 0.5)
    assert read_policy(kept / "states" / "mprage-3t").release == Release(min_subjects=3)
    waiting = Outbox(state, kept / "data" / "spgr-1.5t")
    ready = waiting.ready()
    assert ready is not None and ready.path.exists() and waiting.todo() is None
    settled = Outbox(kept / "states" / "mprage-3t", kept / "data" / "mprage-3t")
    assignment = settled.assignment()
    assert assignment is not None and settled.ready() is None
    outcome = settled.outcome(settled.key(assignment))
    assert outcome is not None and outcome.accepted
