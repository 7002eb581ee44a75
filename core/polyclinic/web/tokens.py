"""The token of a page: who has it may act. Only its hash is kept."""

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path

from polyclinic.errors import ConfigError
from polyclinic.system.durable import write_durably

TOKEN_BYTES = 32
HASH = re.compile(r"[0-9a-f]{64}")
LONGEST = 200  # characters that a token may have
SIGNED_IN_S = 12 * 3600.0
MOST_SIGNED_IN = 100


class Token:
    """The secret of a page, as its hash; who was let in by it is kept in memory.

    A token is 256 random bits, so its plain SHA-256 cannot be guessed back.

    Args:
        digest: SHA-256 (hex) of the token.
    """

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._readers: OrderedDict[str, float] = OrderedDict()  # hash of a cookie -> its end
        self._lock = threading.Lock()

    def fits(self, token: str) -> bool:
        """Tell whether this is the token, in a time that tells nothing about it."""
        return hmac.compare_digest(_hash(token[:LONGEST]), self._digest)

    def let_in(self) -> str:
        """Return a new cookie, with which the page can be read, and nothing be done."""
        cookie = secrets.token_urlsafe(TOKEN_BYTES)
        with self._lock:
            self._readers[_hash(cookie)] = time.monotonic() + SIGNED_IN_S
            while len(self._readers) > MOST_SIGNED_IN:
                self._readers.popitem(last=False)
        return cookie

    def may_read(self, cookie: str) -> bool:
        """Tell whether a cookie is one of those that were given, and not too old."""
        with self._lock:
            return self._readers.get(_hash(cookie[:LONGEST]), 0.0) > time.monotonic()


def make_token() -> tuple[str, Token]:
    """Draw a token; return it, which is shown once, and what checks it."""
    text = secrets.token_urlsafe(TOKEN_BYTES)
    return text, Token(_hash(text))


def keep_token(path: Path) -> str:
    """Draw a token, keep its hash in a file, and return it."""
    text = secrets.token_urlsafe(TOKEN_BYTES)
    write_durably(path, f"{_hash(text)}\n".encode())
    return text


def read_token(path: Path) -> Token | None:
    """Read the hash of a token; None if none was kept.

    Raises:
        ConfigError: The file is damaged.
    """
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(LONGEST).strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Make a new token.") from error
    if not HASH.fullmatch(text):
        raise ConfigError(f"{path}: holds no hash of a token. Make a new token.")
    return Token(text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
