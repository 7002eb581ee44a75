"""Keys and kits of a whole federation on one machine, as `init`, `keygen` and `enrol` make them."""

from pathlib import Path

from polyclinic.security.keys import make_key
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.registry import enrol_with_kit


def local_authority(folder: Path, port: int) -> Authority:
    """Make an authority for loopback, in a new folder."""
    return Authority.create(folder, ["127.0.0.1"], port)


def kit_for(authority: Authority, site: str) -> Path:
    """Return a hospital's kit, with its key beside it; make both when they are first asked for."""
    path = authority.folder / "hospitals" / site / "kit.json"
    if not path.exists():
        enrol_with_kit(authority, site, make_key(path.parent, site), path)
    return path
