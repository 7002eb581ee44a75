"""Connections that have not shown who they are: few from each address, and not for long.

Where there are too many, the oldest one goes, so that a hospital gets its chance even while its own
address is flooded.
"""

import asyncio
import ipaddress
from dataclasses import dataclass

MOST_FROM_ADDRESS = 256
MOST = 1_024
UNPROVED_S = 30.0  # from the first byte's absence to the key
IPV6_PREFIX = 64  # of an IPv6 address: whoever has one address there has all


@dataclass(eq=False)
class Guest:
    """A connection.

    Attributes:
        who: The other side's IP address.
        task: Serves the connection; cancelled when it has to go.
    """

    who: str
    task: asyncio.Task[None]

    @property
    def network(self) -> str:
        """What is counted together."""
        address = ipaddress.ip_address(self.who.partition("%")[0])
        if address.version == 4 or address.ipv4_mapped:
            return self.who
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))


class Lobby:
    """The connections that have not shown who they are; lives in the door's event loop."""

    def __init__(self) -> None:
        self._guests: dict[str, dict[Guest, asyncio.TimerHandle]] = {}  # by network, oldest first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, guest: Guest) -> None:
        """Let a connection wait; another one may have to go."""
        waiting = self._guests.setdefault(guest.network, {})
        if len(waiting) >= MOST_FROM_ADDRESS:
            self._send_away(waiting)
        elif self._count >= MOST:
            self._send_away(max(self._guests.values(), key=len))
        loop = asyncio.get_running_loop()
        timer = loop.call_later(UNPROVED_S, guest.task.cancel)
        self._guests.setdefault(guest.network, {})[guest] = timer
        self._count += 1

    def leave(self, guest: Guest) -> None:
        """Note that a connection has shown who it is, or has ended."""
        waiting = self._guests.get(guest.network, {})
        timer = waiting.pop(guest, None)
        if timer is None:
            return
        timer.cancel()
        self._count -= 1
        if not waiting:
            self._guests.pop(guest.network, None)

    def _send_away(self, waiting: dict[Guest, asyncio.TimerHandle]) -> None:
        oldest = next(iter(waiting))
        self.leave(oldest)
        oldest.task.cancel()
