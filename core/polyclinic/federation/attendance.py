"""Attendance: the hospitals that take part in a run, and which of them are online.

Every node that appears is greeted; its answer gives the site's name, its data and its task.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flwr.serverapp import Grid

from polyclinic.errors import TooFewHospitals
from polyclinic.federation.answers import Failure, read_hello, take
from polyclinic.federation.events import Event, Joined, Left, Refused, Returned, Waiting
from polyclinic.federation.news import pause
from polyclinic.federation.records import Hello, Order, greeting
from polyclinic.system import clock
from polyclinic.system.processes import pause_s

Listener = Callable[[Event], None]

# A node whose lease ends sooner counts as offline: Flower destroys a message when its reply is
# asked for while the node is absent.
SURELY_ONLINE_S = 15.0
# Seconds for which a greeting is worth an answer. A hospital prepares all its cases before it
# answers, which may take hours; whether it is alive, its line says.
GREETING_TTL_S = 30 * 86_400.0


class Node(Protocol):
    """Flower's description of a SuperNode that is online.

    Attributes:
        node_id: Flower's identifier.
        online_until: End of its lease, in seconds since 1970; every heartbeat extends it.
        last_activated_at: Time at which it last came online.
        name: Site whose key it showed; empty without keys.
    """

    node_id: int
    online_until: float
    last_activated_at: str
    name: str


@dataclass(frozen=True)
class Member:
    """A hospital that takes part.

    Attributes:
        node: Flower's identifier of its SuperNode.
        activated: Time at which its SuperNode last came online; a new time means that it was gone.
        hello: What the hospital said about itself.
    """

    node: int
    activated: str
    hello: Hello

    @property
    def describes(self) -> bool:
        """Whether the hospital only describes its images, and never trains or scores."""
        return self.hello.mode == "describe"


class Attendance:
    """The hospitals of one run.

    A SuperNode that is started again may come back as a new node: the site's newest node counts.
    With keys, a node's site is the one whose key it showed; the name in its answer must agree.

    Args:
        grid: Flower's grid.
        order: Requirements that every hospital must meet; sent with the greeting.
        on_event: Called with every event: a hospital joined, came back, left or was refused.
    """

    def __init__(self, grid: Grid, order: Order, on_event: Listener) -> None:
        self._grid = grid
        self._order = order
        self._on_event = on_event
        self._greeted: dict[int, str] = {}  # node -> `last_activated_at` when it was greeted
        self._pending: dict[str, int] = {}  # message id of a greeting -> node
        self._members: dict[str, Member] = {}
        self._refused: dict[str, str] = {}
        self._online: dict[int, Node] = {}
        self._absent_since: dict[str, float] = {}

    @property
    def refused(self) -> dict[str, str]:
        """Reason of refusal by site, for sites that may not take part."""
        return dict(self._refused)

    def describe(self) -> dict[str, dict[str, object]]:
        """Return modality, counts of cases, and the hospital's own task if any, by site."""
        return {site: _describe(member) for site, member in sorted(self._members.items())}

    def refresh(self) -> dict[str, Member]:
        """Update the list of members.

        Nodes that appeared are greeted, and answers to earlier greetings are read.

        Returns:
            Members that are online and train, by site. `refresh_all` also returns those that only
            describe their images.
        """
        return {site: member for site, member in self.refresh_all().items() if not member.describes}

    def refresh_all(self) -> dict[str, Member]:
        """Update the list of members, and return all that are online, by site."""
        self._online = {node.node_id: node for node in self._grid.get_nodes()}
        self._greet()
        self._read_answers()
        self._note_absences()
        return {
            site: member for site, member in sorted(self._members.items()) if self.is_online(member)
        }

    def is_online(self, member: Member) -> bool:
        """Return whether the member's SuperNode is online for `SURELY_ONLINE_S` more seconds."""
        node = self._online.get(member.node)
        return node is not None and node.online_until - time.time() > SURELY_ONLINE_S

    def current(self, site: str) -> Member | None:
        """Return a site's newest node, online or not; None if the site is unknown."""
        member = self._members.get(site)
        if member and (node := self._online.get(member.node)):
            return Member(member.node, node.last_activated_at, member.hello)
        return member

    def preparing(self) -> tuple[str, ...]:
        """Return the hospitals that are online and have not answered their greeting yet."""
        nodes = (self._online[node] for node in self._pending.values() if node in self._online)
        return tuple(sorted(node.name or f"node {node.node_id}" for node in nodes))

    def absent_s(self, site: str) -> float:
        """Return for how many seconds a site has been offline; 0 while it is online."""
        since = self._absent_since.get(site)
        return clock.monotonic() - since if since is not None else 0.0

    def site_of(self, node: int) -> str:
        """Return the site of a node; `node N` if it is not a member's."""
        return next(
            (site for site, member in self._members.items() if member.node == node), f"node {node}"
        )

    def wait_for(self, wanted: int, minimum: int, wait_s: float) -> dict[str, Member]:
        """Wait until enough hospitals that train are online.

        Args:
            wanted: Number of hospitals that ends the wait at once.
            minimum: Number of hospitals that is enough when the time is over.
            wait_s: Longest wait, in seconds. Hospitals that are online and prepare their cases are
                waited for longer, if there are too few others.

        Raises:
            TooFewHospitals: Fewer than the minimum came in time.
        """
        start, poll = clock.monotonic(), clock.monotonic()
        seen, told = -1, tuple[str, ...]()
        while True:
            members = self.refresh()
            if len(members) != seen:
                seen, poll = len(members), clock.monotonic()
                if seen < wanted:
                    self._on_event(Waiting(present=tuple(sorted(members)), wanted=wanted))
            if len(members) >= wanted:
                return members
            waited_s = clock.monotonic() - start
            if waited_s > wait_s:
                preparing = self.preparing()
                if len(members) >= minimum or not preparing:
                    break
                if preparing != told:
                    told = preparing
                    self._on_event(
                        Waiting(present=tuple(sorted(members)), wanted=wanted, preparing=told)
                    )
            pause(self._grid, pause_s(clock.monotonic() - poll, 0.05, 1.0))
        if len(members) >= minimum:
            return members
        raise TooFewHospitals(
            self._describe_wait(),
            sorted(members),
            sorted(set(self._members) - set(members)),
            minimum,
            wait_s,
        )

    def _describe_wait(self) -> str:
        refused = "; ".join(
            f"{site} was refused: {reason}" for site, reason in sorted(self._refused.items())
        )
        return f"Waiting for hospitals ({refused})" if refused else "Waiting for hospitals"

    def _greet(self) -> None:
        for node, info in self._online.items():
            greeted = self._greeted.get(node) == info.last_activated_at
            if greeted or info.online_until - time.time() <= SURELY_ONLINE_S:
                continue
            (identifier,) = self._grid.push_messages([greeting(self._order, node, GREETING_TTL_S)])
            if identifier:
                self._greeted[node] = info.last_activated_at
                others = {key: value for key, value in self._pending.items() if value != node}
                self._pending = {**others, identifier: node}

    def _read_answers(self) -> None:
        answerable = [key for key, node in self._pending.items() if node in self._online]
        if not answerable:
            return
        for reply in self._grid.pull_messages(answerable):
            node = self._pending.pop(reply.metadata.reply_to_message_id, None)
            if node is not None and node in self._online:
                self._read_answer(node, take(reply, read_hello))

    def _read_answer(self, node: int, hello: Hello | Failure) -> None:
        enrolled = self._online[node].name
        if isinstance(hello, Failure):
            self._refuse(enrolled or f"node {node}", hello.reason)
        elif enrolled and hello.site != enrolled:
            self._refuse(
                enrolled,
                f"it calls itself {hello.site}, but its key is enrolled as {enrolled}: "
                "start its client with the enrolled name",
            )
        elif hello.refusal:
            self._refuse(hello.site, hello.refusal)
        else:
            self._admit(node, hello)

    def _admit(self, node: int, hello: Hello) -> None:
        returned = hello.site in self._members
        self._members[hello.site] = Member(node, self._online[node].last_activated_at, hello)
        self._refused.pop(hello.site, None)
        self._absent_since.pop(hello.site, None)
        event = Returned if returned else Joined
        self._on_event(
            event(
                site=hello.site,
                modality=hello.modality,
                mode=hello.mode,
                version=hello.version,
                task=hello.task,
                training=hello.counts.get("training"),
                validation=hello.counts.get("validation"),
                test=hello.counts.get("test"),
            )
        )

    def _refuse(self, site: str, reason: str) -> None:
        self._refused[site] = reason
        self._on_event(Refused(site=site, reason=reason))

    def _note_absences(self) -> None:
        for site, member in self._members.items():
            online = self.is_online(member)
            if online:
                self._absent_since.pop(site, None)
            elif site not in self._absent_since:
                self._absent_since[site] = clock.monotonic()
                self._on_event(Left(site=site))


def _describe(member: Member) -> dict[str, object]:
    hello = member.hello
    extra = {
        **({"describes": True} if member.describes else {}),
        **({"task": hello.task} if hello.task else {}),
    }
    return {"modality": hello.modality, **hello.counts, **extra}
