"""What a service knows of its hospitals, at this moment."""

import time
from collections import Counter
from collections.abc import Iterable

from polyclinic_server.fleet.server import FleetServer
from polyclinic_server.service.desk import HospitalSnapshot


def describe_hospitals(
    server: FleetServer, enrolled: Iterable[str], began: float
) -> tuple[HospitalSnapshot, ...]:
    """Return all hospitals that are enrolled or have come, by name.

    Args:
        server: Where they connect.
        enrolled: Names of those that have a valid key.
        began: When the service started, in seconds since 1970.
    """
    standings = server.sessions.standings()
    missing = [HospitalSnapshot(site, "missing", began) for site in {*enrolled} - {*standings}]
    come = []
    for site, standing in standings.items():
        session, asked = standing.session, Counter(server.work.runs_of(site))
        come.append(
            HospitalSnapshot(
                name=site,
                state="connected" if standing.connected else "lost",
                since=standing.since,
                silent_s=time.monotonic() - session.heard,
                doing=session.told.doing,
                device=session.told.device,
                memory_bytes=session.told.memory_bytes,
                version=session.caller.version,
                ahead_s=session.caller.ahead_s,
                sent_bytes=session.traffic.sent,
                received_bytes=session.traffic.received,
                asked=asked.total(),
                runs=tuple(sorted(asked)),
            )
        )
    return tuple(sorted([*missing, *come], key=lambda each: each.name))
