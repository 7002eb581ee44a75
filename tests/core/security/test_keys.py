"""A hospital's key and kit.

Made once, readable by their owner, and explained where they are of no use.
"""

import json
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from polyclinic.errors import ConfigError, KeyInvalid, KitInvalid
from polyclinic.security.keys import (
    PRIVATE,
    PUBLIC,
    fingerprint,
    load_private_key,
    load_public_key,
    make_key,
    parse_public_key,
)
from polyclinic.security.kit import SITE_NAME, Kit, check_site_name


def certificate() -> str:
    """A certificate that signs itself, as PEM."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    moment = datetime.now(UTC)
    made = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=moment,
        not_valid_after=moment + timedelta(days=1),
    ).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


KIT = Kit("st-mary", "coordinator.example.org:9092", certificate(), "SHA256:x")


def test_a_pair_is_written_and_read_again(tmp_path: Path) -> None:
    key = make_key(tmp_path / "keys")
    private, public = tmp_path / "keys" / PRIVATE, tmp_path / "keys" / PUBLIC
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert (
        fingerprint(load_private_key(private).public_key())
        == fingerprint(load_public_key(public))
        == fingerprint(key)
    )


def test_the_fingerprint_is_openssh_s(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    mark = fingerprint(make_key(tmp_path))
    shown = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / PUBLIC], capture_output=True, text=True, check=True
    )
    assert mark in shown.stdout


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    make_key(tmp_path)
    before = (tmp_path / PRIVATE).read_bytes()
    with pytest.raises(KeyInvalid, match="--folder"):
        make_key(tmp_path)
    assert (tmp_path / PRIVATE).read_bytes() == before


def test_a_key_that_anybody_can_read_is_not_used(tmp_path: Path) -> None:
    make_key(tmp_path)
    (tmp_path / PRIVATE).chmod(0o644)
    with pytest.raises(KeyInvalid, match="chmod 600"):
        load_private_key(tmp_path / PRIVATE)


def test_a_private_key_that_was_sent_is_named_as_that(tmp_path: Path) -> None:
    make_key(tmp_path)
    with pytest.raises(KeyInvalid, match="private key"):
        load_public_key(tmp_path / PRIVATE)


@pytest.mark.parametrize("content", [b"", b"ssh-rsa AAAA", b"\x00" * 100, b"x" * 20_000])
def test_what_is_no_public_key_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / PUBLIC).write_bytes(content)
    with pytest.raises(KeyInvalid, match=PUBLIC):
        load_public_key(tmp_path / PUBLIC)


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    small = ec.generate_private_key(ec.SECP256R1())
    for key in (other, small):
        with pytest.raises(ValueError, match="P-384"):
            parse_public_key(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
        path = tmp_path / PRIVATE
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        path.chmod(0o600)
        with pytest.raises(KeyInvalid, match="P-384"):
            load_private_key(path)


def test_a_kit_is_written_and_read_again(tmp_path: Path) -> None:
    KIT.write(tmp_path / "kit.json")
    assert Kit.read(tmp_path / "kit.json") == KIT


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"site": "../a"},
        {"server": "host"},
        {"ca": "no certificate"},
        {"ca": 3},
        {"more": "x"},
        {"site": None},
        {"format": "x"},
    ],
)
def test_what_is_no_kit_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "kit.json"
    KIT.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(KitInvalid, match=r"kit\.json"):
        Kit.read(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "x" * 200_000])
def test_files_that_are_something_else_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "kit.json").write_text(content)
    with pytest.raises(KitInvalid):
        Kit.read(tmp_path / "kit.json")
    with pytest.raises(KitInvalid):
        Kit.read(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["", "../a", "a b", "-a", "_a", ".a", "a" * 64, "ä", "a\n"])
def test_a_name_that_could_be_something_else_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        check_site_name(name)


@pytest.mark.parametrize("name", ["st_mary", "Hospital_2", "a", "a.b-c_d"])
def test_names_of_hospitals_may_be_those_of_folders(name: str) -> None:
    check_site_name(name)
    assert SITE_NAME.fullmatch(name)
