"""A secret of one machine: 32 random bytes in a file that only its owner can read.

What is derived from it (HMAC, RFC 2104) cannot be tried out by anybody who has not got the file.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from polyclinic.errors import ConfigError
from polyclinic.system.durable import make_private_folder, write_durably

SECRET_BYTES = 32


class SecretInvalid(ConfigError):
    """A file of a secret cannot be read, or holds something else."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}. Restore it from a backup.")
        self.path, self.problem = path, problem


class Secret:
    """Secret in a file, which is made if need be.

    Args:
        path: The file, in a folder of its owner's.

    Raises:
        SecretInvalid: The file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._bytes = _read(path) or _draw(path)

    def sign(self, content: bytes) -> bytes:
        """Return the HMAC-SHA-256 of a content."""
        return hmac.new(self._bytes, content, hashlib.sha256).digest()


def _read(path: Path) -> bytes | None:
    try:
        found = bytes.fromhex(path.read_text().strip())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SecretInvalid(path, "the secret cannot be read") from error
    if len(found) != SECRET_BYTES:
        raise SecretInvalid(path, f"the secret does not have {SECRET_BYTES} bytes")
    return found


def _draw(path: Path) -> bytes:
    make_private_folder(path.parent)
    drawn = secrets.token_bytes(SECRET_BYTES)
    write_durably(path, drawn.hex() + "\n")
    return _read(path) or drawn  # another process may have drawn one, too
