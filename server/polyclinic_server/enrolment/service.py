"""What the segmentation service has of the security folder: a folder of its own, with nothing else.

    FOLDER/segmentation/ca.crt                   the authority's certificate; not its key
                        server.key, server.crt   the service's own, by the same authority
                        address.json             its host names
                        journal/                 the enrolled keys, and whom the service refused

Whoever takes over the service gets neither the authority's key nor the coordinator's, and cannot
enrol anybody at the coordinator.
"""

from collections.abc import Sequence
from pathlib import Path

from polyclinic_server.enrolment.authority import SERVER_DAYS, Authority
from polyclinic_server.enrolment.registry import Registry

FOLDER = "segmentation"
UNIT = "segmentation service"
PORT = 9443


def make_service(
    authority: Authority, hosts: Sequence[str] = (), days: int = SERVER_DAYS
) -> Authority:
    """Make the service's folder, or renew its certificate, and copy the list of keys into it.

    Args:
        authority: The coordinator's.
        hosts: Names by which hospitals reach the service; empty keeps the present ones, and takes
            the coordinator's the first time.
        days: Days until the certificate expires.
    """
    folder = authority.folder / FOLDER
    if not hosts and (folder / "address.json").exists():
        hosts = Authority.open(folder).hosts
    service = Authority(folder, tuple(hosts) or authority.hosts, PORT)
    authority.issue_for(service, UNIT, days)
    Registry(folder).close()
    copy_keys(authority.folder)
    return service


def copy_keys(security: Path) -> None:
    """Bring the service's list of enrolled keys up to date, if there is a service.

    Args:
        security: The coordinator's security folder.
    """
    folder = security / FOLDER
    if not (folder / "server.crt").exists():
        return
    ours, theirs = Registry(security), Registry(folder)
    try:
        theirs.follow(ours)
    finally:
        ours.close()
        theirs.close()


def service_folder(security: Path) -> Path:
    """Return what the service reads: its own folder.

    Args:
        security: The coordinator's security folder, of which the service reads no more than its own
            part; or that part itself, which is all that a container of the service has.
    """
    own = security / FOLDER
    return own if (own / "server.crt").exists() else security
