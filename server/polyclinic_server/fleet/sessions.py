"""Which hospitals are connected: at most one live session for each site."""

import asyncio
import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

from polyclinic.fleet.protocol import SILENT_BEATS
from polyclinic.fleet.wire.fleet_pb2 import FromCoordinator, Notice, Refusal
from polyclinic.security.admission_errors import AdmissionRefused, KeyInUse
from polyclinic_server.fleet.caller import Caller, Told
from polyclinic_server.fleet.news import News

SESSION_BYTES = 32
GRACE_S = 5.0  # a hospital whose line was cut counts as connected for so long
LEASE_S = 60.0  # what `online_until` says of a connected hospital
PATIENCE_BEATS = 1.5  # so long a first client has to show that it lives, when a second one comes
MOST_BULK = 8  # blobs of one hospital that travel at the same time
MOST_QUEUED = 1_000  # frames for a hospital that does not read them


@dataclass(frozen=True)
class Node:
    """A hospital that is online, as `polyclinic.federation.attendance` looks at it.

    Attributes:
        node_id: Number of the site; the same for ever.
        online_until: Seconds since 1970.
        last_activated_at: When its client started to be known here.
        name: Site whose key it showed; empty without keys.
    """

    node_id: int
    online_until: float
    last_activated_at: str
    name: str


@dataclass
class Traffic:
    """Bytes of large contents that a hospital was sent, and that came from it."""

    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Standing:
    """How it stands with a hospital that has come.

    Attributes:
        connected: Whether its line stands.
        since: When that last changed, in seconds since 1970.
        session: Its present line, or its last one.
    """

    connected: bool
    since: float
    session: "Session"


@dataclass(eq=False)
class Session:
    """A hospital's line, from its welcome to its end; lives in the server's event loop.

    Attributes:
        caller: The client.
        traffic: Bytes of all of the hospital's lines.
        told: What the hospital last said that it does, and of its machine.
        token: What its calls about blobs show.
        heard: When it last gave a sign of life, on the monotonic clock.
        frames: What it is sent next; None ends the line.
        over: Whether it is ending.
        refusal: Why it ends, if the coordinator does not want it any more.
        sign: Set at every sign of life.
        bulk: Bounds the blobs that travel at the same time.
    """

    caller: Caller
    traffic: Traffic = field(default_factory=Traffic)
    told: Told = field(default_factory=Told)
    token: bytes = field(default_factory=lambda: secrets.token_bytes(SESSION_BYTES))
    heard: float = field(default_factory=time.monotonic)
    frames: asyncio.Queue[FromCoordinator | None] = field(default_factory=asyncio.Queue)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: AdmissionRefused | None = None
    sign: asyncio.Event = field(default_factory=asyncio.Event)
    bulk: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_BULK))

    @property
    def site(self) -> str:
        """The hospital."""
        return self.caller.site

    @property
    def mark(self) -> str:
        """Fingerprint of its key; empty without keys."""
        return self.caller.mark

    def hear(self) -> None:
        """Note a sign of life."""
        self.heard = time.monotonic()
        self.sign.set()

    def send(self, frame: FromCoordinator) -> None:
        """Queue a frame; a hospital that does not read what it is sent is cut off."""
        if self.frames.qsize() >= MOST_QUEUED:
            self.end()
        else:
            self.frames.put_nowait(frame)

    def end(self, refusal: AdmissionRefused | None = None) -> None:
        """End the line after what is queued was sent."""
        if self.over.is_set():
            return
        self.refusal = refusal
        if refusal is not None:
            self.frames.put_nowait(FromCoordinator(refusal=Refusal(reason=refusal.pack())))
        self.frames.put_nowait(None)
        self.over.set()


@dataclass(eq=False)
class _Place:
    """What is known of a site.

    Attributes:
        client: The client that is or was connected.
        activated: When that client first came.
        named: Whether it showed a key.
        session: Its line; None after a cut.
        until: Until when it counts as connected after a cut, on the monotonic clock.
        last: Its line, or the last one.
        since: When the line came or went, in seconds since 1970.
        traffic: Bytes of all lines of the site.
    """

    client: str
    activated: str
    named: bool
    session: Session | None = None
    until: float = 0.0
    last: Session | None = None
    since: float = field(default_factory=time.time)
    traffic: Traffic = field(default_factory=Traffic)


class Sessions:
    """Hospitals and their lines; changes in the event loop alone.

    Args:
        heartbeat_s: Interval of heartbeats.
        news: Told when a hospital comes or leaves.
        forget: Called with a site whose client is another one now: what the first had is lost.
    """

    def __init__(self, heartbeat_s: float, news: News, forget: Callable[[str], None]) -> None:
        self.heartbeat_s = heartbeat_s
        self._news = news
        self._forget = forget
        self._lock = threading.Lock()  # `nodes` is called from other threads
        self._places: dict[str, _Place] = {}
        self._by_token: dict[bytes, Session] = {}

    @property
    def silent_s(self) -> float:
        """How long a hospital may be silent before its line is cut."""
        return SILENT_BEATS * self.heartbeat_s

    def nodes(self) -> list[Node]:
        """Return the hospitals that are online, by name."""
        now, end = time.monotonic(), time.time() + LEASE_S
        with self._lock:
            return [
                Node(node_of(site), end, place.activated, site if place.named else "")
                for site, place in sorted(self._places.items())
                if place.session is not None or place.until > now
            ]

    def site_of(self, node: int) -> str | None:
        """Return the site of a node's number; None if no such hospital was ever here."""
        with self._lock:
            return next((site for site in self._places if node_of(site) == node), None)

    def find(self, token: bytes) -> Session | None:
        """Return the live session of a token."""
        return self._by_token.get(token)

    def of(self, site: str) -> Session | None:
        """Return a site's live session."""
        place = self._places.get(site)
        return place.session if place else None

    def standings(self) -> dict[str, Standing]:
        """Return how it stands with every hospital that has come, by site."""
        with self._lock:
            places = sorted(self._places.items())
        return {
            site: Standing(place.session is not None, place.since, place.last)
            for site, place in places
            if place.last is not None
        }

    async def enter(self, caller: Caller) -> Session:
        """Open a line of a hospital that was admitted.

        Raises:
            KeyInUse: Another client of the site is connected, and lives.
        """
        site = caller.site
        while (first := self.of(site)) is not None and first.caller.client != caller.client:
            if await self._lives(first):
                raise KeyInUse(site=site)
            self.leave(first)
        before = place = self._places.get(site)
        if place is None or place.client != caller.client:
            if place is not None:
                self._forget(site)
            activated = datetime.now(UTC).isoformat()
            place = _Place(caller.client, activated, bool(caller.mark))
            place.traffic = before.traffic if before is not None else Traffic()
        elif place.session is not None:
            self.leave(place.session)  # the same client, whose former line is dead
        session = place.session = place.last = Session(caller, place.traffic)
        place.since = time.time()
        with self._lock:
            self._places[site] = place
        self._by_token[session.token] = session
        self._news.tell()
        return session

    def leave(self, session: Session, *, for_good: bool = False) -> None:
        """Note that a line has ended.

        Args:
            session: The line.
            for_good: Whether the hospital is gone; else it counts as connected a little longer.
        """
        session.end()
        self._by_token.pop(session.token, None)
        place = self._places[session.site]
        if place.session is not session:
            return
        place.session, place.since = None, time.time()
        silent = time.monotonic() - session.heard >= self.silent_s
        if for_good or silent or session.refusal is not None:
            place.until = 0.0
        else:
            place.until = time.monotonic() + GRACE_S
            asyncio.get_running_loop().call_later(GRACE_S, self._news.tell)
        self._news.tell()

    def everybody(self) -> list[Session]:
        """Return all live sessions."""
        return list(self._by_token.values())

    async def _lives(self, first: Session) -> bool:
        """Wait for a sign of life of a client, and return whether there was one."""
        first.send(FromCoordinator(notice=Notice(text=SECOND.format(site=first.site))))
        first.sign.clear()
        signs = [asyncio.ensure_future(each.wait()) for each in (first.sign, first.over)]
        try:
            await asyncio.wait(
                signs,
                timeout=PATIENCE_BEATS * self.heartbeat_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for each in signs:
                each.cancel()
        return first.sign.is_set() and not first.over.is_set()


SECOND = (
    "Another client came with the key of {site}. If you started no other one, somebody else has "
    "this key: tell the coordinator to revoke it."
)


@lru_cache(maxsize=10_000)
def node_of(site: str) -> int:
    """Return the number of a site: the same for ever, and Flower's kind of number."""
    digest = hashlib.sha256(b"polyclinic node " + site.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1 | 1 << 32  # never one of Flower's own
