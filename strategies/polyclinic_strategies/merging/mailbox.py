"""A mailbox with one open question to each hospital; hospitals may leave and come back meanwhile.

Two rules keep messages from being lost:

- A reply is asked for only while its hospital is surely online, because Flower destroys a message
  when its reply is asked for while the hospital is offline.
- A hospital that was offline is asked again, even if it came back before anybody noticed, because
  it has lost the question.

A hospital that is online and silent has failed once `patience_s` are over: nobody waits longer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

from polyclinic.federation.answers import Failure
from polyclinic.federation.envelope.content import pack_content
from polyclinic.federation.news import pause, tells_news
from polyclinic.system import clock

PATIENCE_S = 3600.0
LOOK_S = 0.5  # seconds between two updates of the list of members

Purpose = TypeVar("Purpose")


class Member(Protocol):
    """A hospital that takes part."""

    @property
    def node(self) -> int:
        """Flower's identifier of its SuperNode."""

    @property
    def activated(self) -> str:
        """Time at which its SuperNode last came online; a new time means that it was gone."""

    @property
    def describes(self) -> bool:
        """Whether the hospital only describes its images, and never trains or scores."""


class Members(Protocol):
    """The hospitals that take part; `polyclinic.federation.attendance.Attendance` is one."""

    def refresh(self) -> Mapping[str, Member]:
        """Update the list, and return the members that are online, by site."""

    def current(self, site: str) -> Member | None:
        """Return a site's newest node, online or not; None if the site is unknown."""


@dataclass(frozen=True)
class _OpenQuestion(Generic[Purpose]):
    identifier: str
    node: int
    activated: str
    purpose: Purpose
    asked: float  # monotonic time in seconds
    longest_s: float  # after which the question is given up


class Mailbox(Generic[Purpose]):
    """Open questions to hospitals, at most one to each.

    Args:
        grid: Flower's grid.
        members: Hospitals that take part.

    Attributes:
        patience_s: Longest wait for an answer, in seconds.
        online: Members that were online at the last `refresh`, by site.
    """

    def __init__(self, grid: Grid, members: Members) -> None:
        self._grid = grid
        self._members = members
        self.patience_s = PATIENCE_S
        self._open: dict[str, _OpenQuestion[Purpose]] = {}
        self._looked = float("-inf")
        self.online: dict[str, Member] = {}

    @property
    def tells_news(self) -> bool:
        """Whether answers are told, so that nobody has to look for them."""
        return tells_news(self._grid)

    def wait(self, seconds: float) -> None:
        """Wait for this number of seconds, or until there are answers."""
        pause(self._grid, seconds)

    def refresh(self) -> None:
        """Update the list of members; where the grid tells no news, at most every `LOOK_S`.

        A question is forgotten if its hospital was offline meanwhile.
        """
        moment = clock.monotonic()
        if moment - self._looked < LOOK_S and not self.tells_news:
            return
        self._looked = moment
        self.online = dict(self._members.refresh())
        for site, question in list(self._open.items()):
            member = self._members.current(site)
            asked = (question.node, question.activated)
            if member is None or (member.node, member.activated) != asked:
                del self._open[site]

    def idle(self) -> list[str]:
        """Return the sites that are online and have no open question, by name."""
        return [site for site in sorted(self.online) if site not in self._open]

    def ask(self, site: str, make: Callable[[int], Message], purpose: Purpose) -> None:
        """Send a question to a site; nothing happens if it has one, or if Flower refuses it.

        Args:
            site: The hospital.
            make: Makes the message for a node identifier.
            purpose: What `collect` returns together with the answer.
        """
        member = self._members.current(site)
        if member is None or site in self._open:
            return
        message = make(member.node)
        message.content = pack_content(message.content)
        (identifier,) = self._grid.push_messages([message])
        if identifier:
            longest_s = min(message.metadata.ttl, self.patience_s)
            self._open[site] = _OpenQuestion(
                identifier, member.node, member.activated, purpose, clock.monotonic(), longest_s
            )

    def collect(self) -> list[tuple[str, Purpose, Message | Failure]]:
        """Return the answers that have arrived, and those that will not, with site and purpose.

        A question has failed if it took longer than its time to live, or than anybody waits.
        """
        waiting = {
            question.identifier: site
            for site, question in self._open.items()
            if site in self.online
        }
        collected: list[tuple[str, Purpose, Message | Failure]] = []
        for reply in self._grid.pull_messages(list(waiting)) if waiting else ():
            site = waiting.pop(reply.metadata.reply_to_message_id, None)
            if site is not None:  # else nobody asked for it
                collected.append((site, self._open.pop(site).purpose, reply))
        return collected + self._give_up()

    def _give_up(self) -> list[tuple[str, Purpose, Message | Failure]]:
        """Close the questions that hospitals, which are online, leave without an answer."""
        moment = clock.monotonic()
        silent: list[tuple[str, Purpose, Message | Failure]] = []
        for site, question in list(self._open.items()):
            waited_s = moment - question.asked
            if site in self.online and waited_s > question.longest_s:
                del self._open[site]
                silent.append((site, question.purpose, Failure(f"no answer in {waited_s:.0f} s")))
        return silent
