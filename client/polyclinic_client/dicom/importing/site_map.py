"""The site's own map: which patient has which name in data folders. It never leaves the hospital.

A name is a keyed hash (HMAC-SHA-256) of an identifier. Its key is drawn once and stays here: the
same patient has the same name in every import of this hospital, and another one in every other.
Without the key nobody can try out identifiers.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from polyclinic.security.secret import Secret, SecretInvalid
from polyclinic.system.durable import write_durably
from polyclinic.system.text import parse_json
from polyclinic_client.dicom.errors import SiteMapInvalid
from polyclinic_client.state import state_folder

KEY, PATIENTS = "hash.key", "patients.json"
NAME_DIGITS = 16  # hexadecimal: two of a million patients share a name once in 30 million hospitals
MOST_BYTES = 2**28


def default_site_map() -> Path:
    """Return the hospital's own folder, where no option names one: the environment's, or else ours.

    All commands go by it, so that a series has one name, whichever command reads it.
    """
    named = os.environ.get("POLYCLINIC_SITE_MAP")
    return Path(named) if named else state_folder(None, "dicom")


class SiteMap:
    """Key and map of a hospital, in a folder that only its owner can read.

    Args:
        folder: Made if need be; the key is drawn when it is missing.

    Raises:
        SiteMapInvalid: The key or the map is damaged, or the key of a map is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / PATIENTS
        self._patients = self._read()
        self._secret = self._read_secret()

    def name_patient(self, identifier: str, study: str) -> str:
        """Return the name of a patient, and note whose it is.

        Args:
            identifier: The patient's, as the files say; may be empty.
            study: The study's; it stands for a patient who has no identifier.
        """
        whose = identifier or f"study {study}"
        name = self.name("patient", whose)
        self._patients[name] = whose
        return name

    def name(self, kind: str, identifier: str) -> str:
        """Return the name that stands for an identifier of a kind."""
        content = f"{kind}\0{identifier}".encode(errors="surrogatepass")
        return self._secret.sign(content).hex()[:NAME_DIGITS]

    def keep(self) -> None:
        """Write the map."""
        write_durably(self._path, json.dumps({"patients": self._patients}, indent=1))

    def _read(self) -> dict[str, str]:
        try:
            if self._path.stat().st_size > MOST_BYTES:
                raise ValueError
            found: Mapping[str, object] = parse_json(self._path.read_bytes())["patients"]
            return {str(name): str(whose) for name, whose in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SiteMapInvalid(self._path, "the map of patients cannot be read") from error

    def _read_secret(self) -> Secret:
        path = self.folder / KEY
        if self._patients and not path.exists():
            raise SiteMapInvalid(path, "the key of the map of patients is missing")
        try:
            return Secret(path)
        except SecretInvalid as error:
            raise SiteMapInvalid(path, error.problem) from error
