"""Orthanc with its DICOMweb plug-in, started on a free port of this machine for some tests."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from polyclinic.system.processes import free_port

PROGRAM = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
MISSING = not (Path(PROGRAM).exists() and PLUGIN.exists())
REASON = "Orthanc and its DICOMweb plug-in are not installed"


@contextmanager
def pacs(folder: Path, users: dict[str, str] | None = None) -> Iterator[str]:
    """Start a PACS with an empty archive; yield the address of its DICOMweb service."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = {
        **{"Name": "test", "StorageDirectory": str(folder), "IndexDirectory": str(folder)},
        **{"HttpPort": port, "DicomServerEnabled": False, "Plugins": [str(PLUGIN)]},
        **{"RemoteAccessAllowed": False, "AuthenticationEnabled": bool(users)},
        **{"RegisteredUsers": users or {}, "DicomWeb": {"Enable": True}, "HttpTimeout": 60},
        **{"DefaultEncoding": "Utf8", "ConcurrentJobs": 1, "HttpThreadsCount": 8},
    }
    path = folder / "settings.json"
    path.write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, str(path)], stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}/dicom-web"
    finally:
        process.terminate()
        process.wait(20)


def fill(url: str, folder: Path, login: tuple[str, str] | None = None) -> None:
    """Put every file of a folder into a PACS."""
    address = url.removesuffix("/dicom-web") + "/instances"
    session = requests.Session()
    session.trust_env, session.auth = False, login
    for path in sorted(folder.rglob("*.dcm")):
        session.post(address, data=path.read_bytes(), timeout=30).raise_for_status()


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    session = requests.Session()
    session.trust_env = False
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(f"Orthanc ended with status {process.returncode}")
        try:
            session.get(f"{address}/system", timeout=1)
        except requests.RequestException:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("Orthanc does not answer")
