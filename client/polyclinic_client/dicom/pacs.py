"""A PACS by DICOMweb: studies are looked up (QIDO), fetched (WADO), and results stored (STOW).

Nothing goes through a proxy that the environment names: the PACS lies inside the hospital.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread

from polyclinic.errors import ConfigError
from polyclinic.system.durable import make_folder
from polyclinic_client.dicom.errors import PacsRefused, PacsUnreachable
from polyclinic_client.dicom.multipart import boundary_of, read_parts
from polyclinic_client.dicom.reading.elements import DAMAGED

USER, PASSWORD, TOKEN = "POLYCLINIC_PACS_USER", "POLYCLINIC_PACS_PASSWORD", "POLYCLINIC_PACS_TOKEN"
AUTHORITY = "POLYCLINIC_PACS_CA"  # file of the authority that signed the PACS's certificate
# in the transfer syntax that the PACS keeps
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PAGE = 200  # studies of one answer
MOST_STUDIES = 100_000
MOST_UID = 64
TIMEOUT_S = (10.0, 300.0)  # to connect, and between two pieces of an answer
CHUNK_BYTES = 2**22
STATUS = {
    401: ("asks who this is", f"Set {USER} and {PASSWORD}, or {TOKEN}, in the environment."),
    403: ("does not allow it", "Ask its administrator for the right to read, and to store."),
    404: ("does not know what it was asked for", "Check the identifiers, and the address."),
}


@dataclass(frozen=True)
class RemoteSeries:
    """A series in a PACS."""

    study: str
    series: str
    modality: str = ""


class Pacs:
    """A DICOMweb service.

    Args:
        url: Its address, as https://pacs.example.org/dicom-web.

    Raises:
        ConfigError: It is no such address, or a password would travel unprotected.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--pacs {url}: write https://HOST/PATH, the DICOMweb address.")
        secret = os.environ.get(TOKEN) or os.environ.get(PASSWORD)
        if secret and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ConfigError(
                f"--pacs {url}: a password would travel unprotected. Use https://, or unset "
                f"{PASSWORD} and {TOKEN}."
            )
        self.url = url.rstrip("/")

    def find_studies(self, wanted: dict[str, str]) -> list[str]:
        """Return the identifiers of the studies that a search finds.

        Args:
            wanted: Attributes, such as StudyDate, and what they must be.

        Raises:
            PacsUnreachable, PacsRefused: It does not answer, or not so.
        """
        found: list[str] = []
        while len(found) < MOST_STUDIES:
            with self._client() as client:
                page = client.search_for_studies(
                    search_filters=wanted, limit=PAGE, offset=len(found)
                )
            fresh = [uid for uid in map(_study_of, page) if uid and uid not in found]
            found += fresh
            if len(page) < PAGE or not fresh:
                break
        return found

    def list_series(self, study: str) -> list[RemoteSeries]:
        """Return the series of a study.

        Raises:
            PacsUnreachable, PacsRefused: It does not answer, or does not know the study.
        """
        with self._client() as client:
            page = client.search_for_series(study_instance_uid=check_uid(study))
        found = [
            RemoteSeries(study, _value(each, "0020000E"), _value(each, "00080060")) for each in page
        ]
        return [each for each in found if each.series]

    def fetch(self, wanted: RemoteSeries, folder: Path) -> int:
        """Write the objects of a series into a folder, all of them or no folder.

        Returns:
            Number of objects.

        Raises:
            PacsUnreachable, PacsRefused: It does not answer, or not with all of the series.
        """
        unfinished = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        make_folder(unfinished)
        url = f"{self.url}/studies/{check_uid(wanted.study)}/series/{check_uid(wanted.series)}"
        count = 0
        with (
            self._session() as session,
            session.get(
                url, headers={"Accept": AS_STORED}, stream=True, timeout=TIMEOUT_S
            ) as answer,
        ):
            answer.raise_for_status()
            boundary = boundary_of(answer.headers.get("Content-Type", ""))
            for part in read_parts(answer.iter_content(CHUNK_BYTES), boundary):
                (unfinished / f"{count:06}.dcm").write_bytes(part)
                count += 1
        unfinished.rename(folder)
        return count

    def store(self, path: Path) -> None:
        """Store an object.

        Raises:
            PacsUnreachable, PacsRefused: It does not answer, or does not take it.
        """
        with self._client() as client:
            answer = client.store_instances([dcmread(path)])
        if not answer.get("ReferencedSOPSequence"):
            raise PacsRefused(
                self.url, "did not take the segmentation", "Ask its administrator what it stores."
            )

    @contextmanager
    def _client(self) -> Iterator[DICOMwebClient]:
        """Yield a client, and turn what goes wrong into a sentence."""
        with self._session() as session:
            yield DICOMwebClient(
                self.url, session=session, timeout=TIMEOUT_S, chunk_size=CHUNK_BYTES
            )

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        """Yield a session that says who this is, and turn what goes wrong into a sentence."""
        session = requests.Session()
        session.trust_env = False
        session.verify = os.environ.get(AUTHORITY) or True
        if token := os.environ.get(TOKEN):
            session.headers["Authorization"] = f"Bearer {token}"
        elif user := os.environ.get(USER):
            session.auth = (user, os.environ.get(PASSWORD, ""))
        try:
            yield session
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            said = STATUS.get(status, (f"answers with status {status}", "Look at its log."))
            raise PacsRefused(self.url, *said) from error
        except requests.exceptions.SSLError as error:
            raise PacsUnreachable(
                self.url, f"its certificate is not trusted; name its authority in {AUTHORITY}"
            ) from error
        except requests.Timeout as error:
            raise PacsUnreachable(self.url, "it takes too long") from error
        except requests.RequestException as error:
            raise PacsUnreachable(self.url, "no connection") from error
        except (OSError, MemoryError):
            raise
        except DAMAGED as error:
            raise PacsRefused(
                self.url, "gave an answer that is no DICOMweb", "Check the address."
            ) from error
        finally:
            session.close()


def check_uid(uid: str) -> str:
    """Return an identifier that may stand in an address.

    Raises:
        ConfigError: It is none.
    """
    if not is_uid(uid):
        raise ConfigError(
            f"'{uid[:MOST_UID]}' is no identifier of a study or series: write numbers and dots."
        )
    return uid


def is_uid(text: str) -> bool:
    """Tell whether a text is an identifier."""
    return 0 < len(text) <= MOST_UID and all(part.isdigit() for part in text.split("."))


def wanted_studies(pacs: Pacs, which: list[str], on_found: Callable[[int], None]) -> list[str]:
    """Return the studies that --studies names: identifiers, files of them, and searches.

    Raises:
        ConfigError: Nothing is named, or it is neither of these.
        PacsUnreachable, PacsRefused: The PACS does not answer a search.
    """
    if not which:
        raise ConfigError(
            "--pacs needs --studies: an identifier, a file of them, or a search such as "
            "StudyDate=20240101-20240131."
        )
    found: dict[str, None] = {}
    for each in which:
        if "=" in each:
            key, _, value = each.partition("=")
            found |= dict.fromkeys(pacs.find_studies({key: value}))
        elif (path := Path(each)).is_file():
            lines = path.read_text(errors="replace").split()
            found |= dict.fromkeys(check_uid(line) for line in lines)
        elif is_uid(each):
            found[each] = None
        else:
            raise ConfigError(
                f"--studies {each}: it is neither an identifier (numbers and dots), nor a file "
                "that exists, nor a search such as StudyDate=20240101-20240131."
            )
        on_found(len(found))
    return list(found)


def _study_of(answer: Any) -> str:
    return _value(answer, "0020000D")


def _value(answer: Any, tag: str) -> str:
    """Return a text of an answer in DICOM's JSON; empty where it is missing."""
    values = answer.get(tag, {}).get("Value", []) if isinstance(answer, dict) else []
    return str(values[0]) if values else ""
