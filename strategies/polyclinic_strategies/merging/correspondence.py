"""One open question to each hospital, for as long as it takes; hospitals come and go in between.

The rules were learned the hard way: ask for an answer only while its hospital is surely online (asking an absent one destroys the
message), and ask anew when a hospital was away, even if it is back before anybody noticed, because it has forgotten the question.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

from polyclinic.federation.records import pack_content, unpack_message
from polyclinic.system import clock

LOOK_S = 0.5  # between two looks at who is here

Purpose = TypeVar("Purpose")


class Member(Protocol):
    """A hospital that takes part."""

    @property
    def node(self) -> int:
        """Flower's id of its SuperNode."""

    @property
    def activated(self) -> str:
        """When its SuperNode last came online; another time means that it was gone."""

    @property
    def describes(self) -> bool:
        """Whether it only describes itself, and never trains or scores."""


class Roster(Protocol):
    """Who takes part; `polyclinic.federation.attendance.Attendance` is one."""

    def refresh(self) -> Mapping[str, Member]:
        """The members that are online, by site."""

    def current(self, site: str) -> Member | None:
        """A site's newest node, online or not."""


@dataclass(frozen=True)
class _Open(Generic[Purpose]):
    identifier: str
    node: int
    activated: str
    purpose: Purpose
    until: float


class Correspondence(Generic[Purpose]):
    """Questions that are out, and their answers.

    Args:
        grid: Flower's grid.
        roster: Who takes part.
    """

    def __init__(self, grid: Grid, roster: Roster) -> None:
        self._grid = grid
        self._roster = roster
        self._open: dict[str, _Open[Purpose]] = {}
        self._looked = float("-inf")
        self.online: dict[str, Member] = {}

    def look(self) -> None:
        """See who is here; a question to a hospital that was away meanwhile, or that took too long, is given up."""
        moment = clock.monotonic()
        if moment - self._looked < LOOK_S:
            return
        self._looked = moment
        self.online = dict(self._roster.refresh())
        for site, asked in list(self._open.items()):
            member = self._roster.current(site)
            if (
                member is None
                or (member.node, member.activated) != (asked.node, asked.activated)
                or moment > asked.until
            ):
                del self._open[site]

    def idle(self) -> list[str]:
        """Sites that are online and have no open question, by name."""
        return [site for site in sorted(self.online) if site not in self._open]

    def ask(self, site: str, make: Callable[[int], Message], purpose: Purpose) -> None:
        """Put a question to an idle site; without effect if it cannot be sent just now."""
        member = self._roster.current(site)
        if member is None or site in self._open:
            return
        message = make(member.node)
        message.content = pack_content(message.content)
        (identifier,) = self._grid.push_messages([message])
        if identifier:
            until = clock.monotonic() + message.metadata.ttl
            self._open[site] = _Open(identifier, member.node, member.activated, purpose, until)

    def hear(self) -> list[tuple[str, Purpose, Message]]:
        """Answers that have come, errors among them."""
        waiting = {
            asked.identifier: site for site, asked in self._open.items() if site in self.online
        }
        if not waiting:
            return []
        heard = []
        for reply in self._grid.pull_messages(list(waiting)):
            site = waiting[reply.metadata.reply_to_message_id]
            heard.append((site, self._open.pop(site).purpose, unpack_message(reply)))
        return heard
