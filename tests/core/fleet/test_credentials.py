"""What a call to a service shows is worth something there alone."""

from pathlib import Path

import pytest

from polyclinic.fleet.credentials import credentials, verify_call
from polyclinic.security.admission_errors import (
    SITE_HEADER,
    TIMESTAMP_HEADER,
    SignatureInvalid,
)
from polyclinic.security.keys import PRIVATE, PrivateKey, load_private_key, make_key

HERE, THERE = b"a" * 32, b"b" * 32


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    make_key(tmp_path)
    return load_private_key(tmp_path / PRIVATE)


def test_a_call_is_the_key_s_now(key: PrivateKey) -> None:
    found, ahead_s = verify_call(dict(credentials(key, HERE, "st-mary")), HERE)
    assert found == key.public_key() and abs(ahead_s) < 60


@pytest.mark.parametrize(
    ("authority", "changes"),
    [
        (THERE, {}),
        (HERE, {SITE_HEADER: "st-john"}),
        (HERE, {SITE_HEADER: ""}),
        (HERE, {TIMESTAMP_HEADER: "2030-01-01T00:00:00+00:00"}),
    ],
    ids=["another coordinator", "another site", "no site", "another time"],
)
def test_for_anything_else_it_is_worth_nothing(
    authority: bytes, changes: dict[str, str], key: PrivateKey
) -> None:
    shown = dict(credentials(key, HERE, "st-mary")) | changes
    with pytest.raises(SignatureInvalid) as raised:
        verify_call(shown, authority)
    assert raised.value.facts["key"].startswith("SHA256:")
