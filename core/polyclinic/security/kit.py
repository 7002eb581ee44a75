"""The kit that a coordinator sends to a hospital that it enrolled; it holds no secret."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from polyclinic.errors import AddressInvalid, ConfigError, KitInvalid
from polyclinic.security.keys import authority_fingerprint
from polyclinic.system.durable import write_durably
from polyclinic.system.processes import parse_address

FORMAT = 1
MAX_KIT_BYTES = 100_000
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class _File(BaseModel):
    """The content of a kit's file."""

    model_config = ConfigDict(extra="forbid")

    format: int
    site: str
    server: str
    ca: Annotated[str, Field(pattern="BEGIN CERTIFICATE")]
    key: str


@dataclass(frozen=True)
class Kit:
    """Address of the coordinator, how to recognize it, and its name for the hospital."""

    site: str
    server: str  # HOST:PORT
    ca: str  # PEM of the coordinator's certificate authority
    key: str  # fingerprint of the hospital's enrolled key

    def write(self, path: Path) -> None:
        """Write the file that is sent to the hospital."""
        write_durably(
            path,
            json.dumps({"format": FORMAT, **asdict(self)}, indent=2).encode() + b"\n",
            private=False,
        )

    @property
    def authority(self) -> str:
        """Fingerprint of the coordinator's certificate authority."""
        return authority_fingerprint(self.ca)

    @classmethod
    def read(cls, path: Path) -> "Kit":
        """Read a kit's file.

        Raises:
            KitInvalid: The file is not a kit, or is from a newer polyclinic.
        """
        try:
            if path.stat().st_size > MAX_KIT_BYTES:
                raise KitInvalid(path, "it is too large")
            found = _File.model_validate_json(path.read_bytes())
        except OSError as error:
            raise KitInvalid(path, error.strerror or "it cannot be read") from error
        except ValueError as error:
            raise KitInvalid(path, "it is not what `polyclinic-server enrol` writes") from error
        if found.format > FORMAT:
            raise KitInvalid(path, "it was made by a newer polyclinic; update this one")
        kit = cls(found.site, found.server, found.ca, found.key)
        kit._check(path)
        return kit

    def _check(self, path: Path) -> None:
        try:
            authority_fingerprint(self.ca)
        except ValueError as error:
            raise KitInvalid(path, "its certificate is damaged") from error
        if not SITE_NAME.fullmatch(self.site):
            raise KitInvalid(path, f"'{self.site[:80]}' is not a hospital's name")
        try:
            parse_address(self.server)
        except AddressInvalid as error:
            raise KitInvalid(path, f"its address is invalid: {error}") from error


def check_site_name(name: str, option: str = "--name") -> None:
    """Raise `ConfigError` if a hospital cannot have this name."""
    if not SITE_NAME.fullmatch(name):
        raise ConfigError(
            f"{option} '{name}': letters, digits, dots, hyphens and underscores only, at most 63, "
            "the first a letter or a digit."
        )
