"""Flower's Grid with patience: what every strategy of Flower's runs on, unchanged.

Flower's own `send_and_receive` looks every 3 s and waits for everybody. This one polls at our pace, asks a hospital again that went
away and came back, ends when those that are here have answered, says who is missing, and hands the replies over in the order of the
sites' names, so that the same seed gives the same sum.
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
from polyclinic.federation.passing import PassingGrid
from polyclinic.federation.records import (
    metrics_from_reply,
    pack_content,
    readdress,
    round_of,
    unpack_message,
)
from polyclinic.system import clock
from polyclinic.system.processes import pause_s

RETRIED = (
    "Node Unavailable",
    "ClientApp stopped responding",
    "Reply Message Unavailable",
    "Message Unavailable",
    "Reply message objects are unavailable",
)
LOOK_S = 0.5  # between two looks at who is here, while answers are awaited
TRIES = 3  # of one message to one hospital, when its process died over it


@dataclass
class _Asked:
    """One hospital's part in an exchange."""

    message: Message
    member: Member | None
    identifier: str = ""  # of the message that is out; empty while there is none
    tries: int = 0


class ReliableGrid(PassingGrid):
    """A Grid whose exchanges always end.

    Args:
        grid: Flower's grid.
        attendance: Who is here.
        deployment: Minimum, time-outs.
        on_event: Told who was asked, answered, failed or is missing, in phase and round.
    """

    def __init__(
        self, grid: Grid, attendance: Attendance, deployment: DeploymentConfig, on_event: Listener
    ) -> None:
        super().__init__(grid)
        self._attendance = attendance
        self._deployment = deployment
        self._on_event = on_event

    def get_node_ids(self) -> Iterable[int]:
        """Nodes of the hospitals that take part and are online, in the order of their names; waits for the minimum.

        Raises:
            TooFewHospitals: They did not come in time.
        """
        minimum = self._deployment.min_hospitals
        members = self._attendance.wait_for(minimum, minimum, self._deployment.wait_s)
        return [member.node for member in members.values()]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """One phase of a round: ask the hospitals, return the replies of those that answered, sorted by site.

        It ends when everybody answered or failed; when the minimum answered and the others have been offline for `grace_s`; or at the
        time-out.

        Raises:
            TooFewHospitals: Fewer than the minimum answered in time.
        """
        phase = Exchange(self, list(messages), self._deployment, self._attendance, self._on_event)
        return phase.run(
            self._deployment.round_timeout_s
            if timeout is None
            else min(timeout, self._deployment.round_timeout_s)
        )


class Exchange:
    """The messages of one phase, until they are answered."""

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
        self._listener = on_event
        self._outstanding: dict[str, _Asked] = {}
        packed: dict[int, RecordDict] = {}  # hospitals share one content: pack it once
        for message in messages:
            key = id(message.content)
            packed[key] = packed[key] if key in packed else pack_content(message.content)
            message.content = packed[key]
            site = attendance.site_of(message.metadata.dst_node_id)
            self._outstanding[site] = _Asked(message, attendance.current(site))
        self._answered: dict[str, Message] = {}
        self._failed: dict[str, str] = {}
        self._phase = messages[0].metadata.message_type if messages else ""
        self._round = round_of(messages[0]) if messages else 0

    def run(self, timeout_s: float) -> list[Message]:
        """Ask, and collect until it ends."""
        start = last = looked = clock.monotonic()
        self._ask(list(self._outstanding), first=True)
        while self._outstanding:
            if self._collect():
                last = clock.monotonic()
            if not self._outstanding or self._is_over(clock.monotonic() - start, timeout_s):
                break
            clock.sleep(pause_s(clock.monotonic() - last, 0.04, 1.0))
            if clock.monotonic() - looked < LOOK_S:
                continue
            self._attendance.refresh()
            looked = clock.monotonic()
            self._ask(
                [
                    site
                    for site, asked in self._outstanding.items()
                    if self._must_ask_again(site, asked)
                ]
            )
        self._conclude(clock.monotonic() - start)
        return [self._answered[site] for site in sorted(self._answered)]

    def _ask(self, sites: list[str], first: bool = False) -> None:
        """Send each site its message, to the node that it now has."""
        batch: list[tuple[str, Message]] = []
        for site in sites:
            asked = self._outstanding[site]
            asked.member = self._attendance.current(site) or asked.member
            node = asked.member.node if asked.member else asked.message.metadata.dst_node_id
            batch.append((site, asked.message if first else readdress(asked.message, node)))
        if not batch:
            return
        for (site, _), identifier in zip(
            batch, self._grid.push_messages([message for _, message in batch]), strict=True
        ):
            self._outstanding[site].identifier = identifier or ""
            self._outstanding[site].tries += 1
            self._listener(Asked(**self._where(site), again=not first))

    def _must_ask_again(self, site: str, asked: _Asked) -> bool:
        """A hospital that came back, as another node or the same, no longer knows what it was asked."""
        member = self._attendance.current(site)
        if member is None or not self._attendance.is_online(member):
            return False
        changed = asked.member is not None and (member.node, member.activated) != (
            asked.member.node,
            asked.member.activated,
        )
        return changed or not asked.identifier

    def _collect(self) -> bool:
        """Take in what has arrived; polls only nodes that are surely online."""
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
                asked.identifier = ""  # its process died over it: ask again
                return
            self._fail(site, reason)
            return
        try:
            answered = answer_of(metrics_from_reply(reply), **self._where(site))
        except ValidationError:  # one hospital's fault ends nobody else's round
            self._fail(site, "its figures are not numbers")
            return
        self._answered[site] = reply
        self._listener(answered)
        del self._outstanding[site]

    def _fail(self, site: str, reason: str) -> None:
        self._failed[site] = reason
        self._listener(Failed(**self._where(site), reason=reason))
        del self._outstanding[site]

    def _where(self, site: str) -> dict[str, Any]:
        return {"phase": self._phase, "round": self._round, "site": site}

    def _is_over(self, waited_s: float, timeout_s: float) -> bool:
        if waited_s >= timeout_s:
            return True
        enough = len(self._answered) >= self._deployment.min_hospitals
        return enough and all(
            self._attendance.absent_s(site) > self._deployment.grace_s for site in self._outstanding
        )

    def _conclude(self, waited_s: float) -> None:
        """Say who is missing; too few answers end the run."""
        for site in sorted(self._outstanding):
            absent_s = self._attendance.absent_s(site)
            reason = (
                f"offline for {absent_s:.0f} s"
                if absent_s
                else f"no answer within {waited_s:.0f} s"
            )
            self._failed[site] = reason
            self._listener(Missing(**self._where(site), reason=reason))
        asked = len(self._answered) + len(self._failed)
        if asked and len(self._answered) < self._deployment.min_hospitals:
            missing = [f"{site} ({reason})" for site, reason in sorted(self._failed.items())]
            raise TooFewHospitals(
                f"In {self._phase}",
                sorted(self._answered),
                missing,
                self._deployment.min_hospitals,
                waited_s,
            )
