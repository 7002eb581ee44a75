"""A Grid for hospitals that may leave and come back; Flower's strategies run on it unchanged.

Flower's own `send_and_receive` looks for replies every 3 s and waits for every node. `ReliableGrid`

- looks for replies more often, and at once where the inner grid tells news,
- asks a hospital again that went away and came back,
- ends when the hospitals that are online have answered, and says who is missing,
- sorts the replies by the sites' names, so that equal seeds give equal sums.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from pydantic import ValidationError

from polyclinic.config.schemas import DeploymentConfig
from polyclinic.errors import TooFewHospitals
from polyclinic.federation.attendance import Attendance, Listener, Member
from polyclinic.federation.events import Asked, Failed, Missing, answer_of
from polyclinic.federation.grids.passing import PassingGrid
from polyclinic.federation.news import pause, tells_news
from polyclinic.federation.records import (
    metrics_from_reply,
    pack_content,
    readdress,
    round_of,
    unpack_message,
)
from polyclinic.fleet.protocol import WORKER_ENDED
from polyclinic.system import clock
from polyclinic.system.processes import pause_s

RETRIED = (  # errors after which a hospital is asked again: our fleet's, then Flower's
    WORKER_ENDED,
    "Node Unavailable",
    "ClientApp stopped responding",
    "Reply Message Unavailable",
    "Message Unavailable",
    "Reply message objects are unavailable",
)
LOOK_S = 0.5  # seconds between two updates of the list of members, while answers are awaited
TRIES = 3  # how often one message is sent to a hospital whose process dies


@dataclass
class _Request:
    """The question to one hospital.

    Attributes:
        message: The message.
        member: The hospital, as it was when the message was sent.
        identifier: Flower's identifier of the message; empty while it is not sent.
        tries: How often it was sent.
    """

    message: Message
    member: Member | None
    identifier: str = ""
    tries: int = 0


class ReliableGrid(PassingGrid):
    """A Grid whose exchanges always end.

    Args:
        grid: Flower's grid.
        attendance: Hospitals of the run.
        deployment: Minimum number of hospitals, and time-outs.
        on_event: Called with every event: a hospital was asked, answered, failed or is missing.
    """

    def __init__(
        self, grid: Grid, attendance: Attendance, deployment: DeploymentConfig, on_event: Listener
    ) -> None:
        super().__init__(grid)
        self._attendance = attendance
        self._deployment = deployment
        self._on_event = on_event

    def get_node_ids(self) -> Iterable[int]:
        """Wait for the minimum of hospitals, and return the nodes of those that are online.

        Returns:
            Node identifiers in the order of the sites' names.

        Raises:
            TooFewHospitals: Fewer than the minimum came in time.
        """
        minimum = self._deployment.min_hospitals
        members = self._attendance.wait_for(minimum, minimum, self._deployment.wait_s)
        return [member.node for member in members.values()]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run one phase of a round: ask the hospitals and collect their replies.

        The phase ends when every hospital answered or failed; when the minimum answered and the
        others have been offline for `grace_s`; or at the time-out.

        Args:
            messages: One message to each hospital.
            timeout: Seconds; `round_timeout_s` is the upper limit.

        Returns:
            Replies of the hospitals that answered, in the order of the sites' names.

        Raises:
            TooFewHospitals: Fewer than the minimum answered in time.
        """
        longest_s = self._deployment.round_timeout_s
        phase = Exchange(self, list(messages), self._deployment, self._attendance, self._on_event)
        return phase.run(longest_s if timeout is None else min(timeout, longest_s))


class Exchange:
    """The messages of one phase, until they are answered.

    Args:
        grid: Grid that sends the messages.
        messages: One message to each hospital.
        deployment: Minimum number of hospitals, and time-outs.
        attendance: Hospitals of the run.
        on_event: Called with every event.
    """

    def __init__(
        self,
        grid: ReliableGrid,
        messages: list[Message],
        deployment: DeploymentConfig,
        attendance: Attendance,
        on_event: Listener,
    ) -> None:
        self._grid = grid
        self._deployment = deployment
        self._attendance = attendance
        self._on_event = on_event
        self._outstanding: dict[str, _Request] = {}
        packed: dict[int, RecordDict] = {}  # messages that share their content: pack it once
        for message in messages:
            key = id(message.content)
            packed[key] = packed[key] if key in packed else pack_content(message.content)
            message.content = packed[key]
            site = attendance.site_of(message.metadata.dst_node_id)
            self._outstanding[site] = _Request(message, attendance.current(site))
        self._answered: dict[str, Message] = {}
        self._failed: dict[str, str] = {}
        self._phase = messages[0].metadata.message_type if messages else ""
        self._round = round_of(messages[0]) if messages else 0

    def run(self, timeout_s: float) -> list[Message]:
        """Ask the hospitals, and return their replies in the order of the sites' names.

        Raises:
            TooFewHospitals: Fewer than the minimum answered in time.
        """
        start = last = looked = clock.monotonic()
        self._ask(list(self._outstanding), first=True)
        while self._outstanding:
            if self._collect():
                last = clock.monotonic()
            if not self._outstanding or self._is_over(clock.monotonic() - start, timeout_s):
                break
            pause(self._grid, pause_s(clock.monotonic() - last, 0.04, 1.0))
            if clock.monotonic() - looked < LOOK_S and not tells_news(self._grid):
                continue
            self._attendance.refresh()
            looked = clock.monotonic()
            requests = self._outstanding.items()
            self._ask([site for site, asked in requests if self._must_ask_again(site, asked)])
        self._conclude(clock.monotonic() - start)
        return [self._answered[site] for site in sorted(self._answered)]

    def _ask(self, sites: list[str], first: bool = False) -> None:
        """Send each site its message, to the site's newest node."""
        batch: list[tuple[str, Message]] = []
        for site in sites:
            asked = self._outstanding[site]
            asked.member = self._attendance.current(site) or asked.member
            node = asked.member.node if asked.member else asked.message.metadata.dst_node_id
            batch.append((site, asked.message if first else readdress(asked.message, node)))
        if not batch:
            return
        identifiers = self._grid.push_messages([message for _, message in batch])
        for (site, _), identifier in zip(batch, identifiers, strict=True):
            self._outstanding[site].identifier = identifier or ""
            self._outstanding[site].tries += 1
            self._on_event(Asked(**self._context(site), again=not first))

    def _must_ask_again(self, site: str, asked: _Request) -> bool:
        """Return whether a site must get its message again.

        A hospital that came back, as another node or the same, has lost the message.
        """
        member, before = self._attendance.current(site), asked.member
        if member is None or not self._attendance.is_online(member):
            return False
        now = (member.node, member.activated)
        changed = before is not None and now != (before.node, before.activated)
        return changed or not asked.identifier

    def _collect(self) -> bool:
        """Take the replies that have arrived; only nodes that are surely online are polled."""
        waiting = {
            asked.identifier: site
            for site, asked in self._outstanding.items()
            if asked.identifier and asked.member and self._attendance.is_online(asked.member)
        }
        if not waiting:
            return False
        replies = [unpack_message(reply) for reply in self._grid.pull_messages(list(waiting))]
        for reply in replies:
            self._take(waiting[reply.metadata.reply_to_message_id], reply)
        return bool(replies)

    def _take(self, site: str, reply: Message) -> None:
        asked = self._outstanding[site]
        if reply.has_error():
            reason = str(reply.error.reason)
            if any(text in reason for text in RETRIED) and asked.tries < TRIES:
                asked.identifier = ""  # the hospital's process died: ask again
                return
            self._fail(site, reason)
            return
        try:
            answered = answer_of(metrics_from_reply(reply), **self._context(site))
        except ValidationError:  # the others' round goes on
            self._fail(site, "its figures are not numbers")
            return
        self._answered[site] = reply
        self._on_event(answered)
        del self._outstanding[site]

    def _fail(self, site: str, reason: str) -> None:
        self._failed[site] = reason
        self._on_event(Failed(**self._context(site), reason=reason))
        del self._outstanding[site]

    def _context(self, site: str) -> dict[str, Any]:
        return {"phase": self._phase, "round": self._round, "site": site}

    def _is_over(self, waited_s: float, timeout_s: float) -> bool:
        if waited_s >= timeout_s:
            return True
        enough = len(self._answered) >= self._deployment.min_hospitals
        return enough and all(
            self._attendance.absent_s(site) > self._deployment.grace_s for site in self._outstanding
        )

    def _conclude(self, waited_s: float) -> None:
        """Tell who is missing.

        Raises:
            TooFewHospitals: Fewer than the minimum answered.
        """
        for site in sorted(self._outstanding):
            absent_s = self._attendance.absent_s(site)
            offline, silent = f"offline for {absent_s:.0f} s", f"no answer within {waited_s:.0f} s"
            self._failed[site] = offline if absent_s else silent
            self._on_event(Missing(**self._context(site), reason=self._failed[site]))
        minimum = self._deployment.min_hospitals
        asked = len(self._answered) + len(self._failed)
        if asked and len(self._answered) < minimum:
            missing = [f"{site} ({reason})" for site, reason in sorted(self._failed.items())]
            raise TooFewHospitals(
                f"In {self._phase}", sorted(self._answered), missing, minimum, waited_s
            )
