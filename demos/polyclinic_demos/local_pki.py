"""Keys and kits of a whole federation on one machine, as `keygen` and `enrol` would make them: for the demos and for tests."""

from pathlib import Path

from polyclinic.security.keys import make_key
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.registry import enrol_with_kit


def rehearse(folder: Path, port: int) -> Authority:
    """An authority for loopback, in a new folder."""
    return Authority.create(folder, ["127.0.0.1"], port)


def kit_for(authority: Authority, site: str) -> Path:
    """A hospital's kit, its key beside it; made when it is first asked for."""
    path = authority.folder / "hospitals" / site / "kit.json"
    if not path.exists():
        enrol_with_kit(authority, site, make_key(path.parent, site), path)
    return path
