"""What the coordinator shows when it enrols a hospital."""

from pathlib import Path

from polyclinic.security.keys import PUBLIC, authority_fingerprint, fingerprint, make_key
from polyclinic.security.kit import Kit
from tests.server.cli.commands import Run


def test_enrolling_shows_the_key_and_the_authority_that_the_kit_holds(
    run_cli: Run, tmp_path: Path
) -> None:
    security = tmp_path / "security"
    assert run_cli("init", "--host", "127.0.0.1", "--folder", str(security)).returncode == 0
    mark = fingerprint(make_key(tmp_path))
    ran = run_cli("enrol", "st-mary", str(tmp_path / PUBLIC), "--security", str(security))
    kit = Kit.read(security / "kits" / "st-mary.kit.json")
    authority = authority_fingerprint((security / "ca.crt").read_text())
    assert kit.authority == authority != mark
    assert mark in ran.stdout and authority in ran.stdout and "telephone" in ran.stdout
    listed = run_cli("enrol", "list", "--security", str(security))
    assert mark in listed.stdout and authority in listed.stdout
