"""Connections that have not shown who they are: few from each address, and not for long.

Where there are too many, one goes, so that a hospital gets its chance even while its own address is
flooded: the oldest of those that said nothing; else the oldest, if it had time enough; else any.
Always the oldest would be wrong: where a thousand hospitals behind one address come back at once,
each would be sent away just before it is done, for ever.
"""

import asyncio
import ipaddress
import random
import time
from dataclasses import dataclass, field

MOST_FROM_ADDRESS = 256
MOST = 1_024
UNPROVED_S = 30.0  # from the first byte's absence to the key
ENOUGH_S = 10.0  # for TLS and the key, on a busy machine
IPV6_PREFIX = 64  # of an IPv6 address: whoever has one address there has all


@dataclass(eq=False)
class Guest:
    """A connection.

    Attributes:
        who: The other side's IP address.
        task: Serves the connection; cancelled when it has to go.
        spoke: Whether it sent a byte.
        since: When it came, on the monotonic clock.
    """

    who: str
    task: asyncio.Task[None]
    spoke: bool = False
    since: float = field(default_factory=time.monotonic)

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
        self._dice = random.SystemRandom()

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
        chosen = next((guest for guest in waiting if not guest.spoke), next(iter(waiting)))
        if chosen.spoke and time.monotonic() - chosen.since < ENOUGH_S:
            chosen = self._dice.choice(list(waiting))
        self.leave(chosen)
        chosen.task.cancel()
