from pathlib import Path

import pytest

from polyclinic.security.secret import Secret, SecretInvalid


def test_a_secret_is_drawn_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "own" / "secret"
    signed = Secret(path).sign(b"content")
    assert Secret(path).sign(b"content") == signed != Secret(path).sign(b"other")
    assert Secret(tmp_path / "another").sign(b"content") != signed
    assert path.stat().st_mode & 0o077 == 0 and path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"no number" * 8, b"\xff" * 64])
def test_a_damaged_secret_is_not_replaced(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SecretInvalid, match="backup"):
        Secret(path)
    assert path.read_bytes() == content
