"""The way between a run's grid and the hospitals: questions go out, replies come back.

A run has the way of the server in its own process (`OwnPost`), or that of a service in another one
(`polyclinic_server.service.served_post`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.wire.fleet_pb2 import Envelope
from polyclinic_server.fleet.news import News
from polyclinic_server.fleet.open_work import Asked, OpenWork
from polyclinic_server.fleet.sessions import Node, Sessions, node_of


@dataclass(frozen=True)
class Answered:
    """A reply that has arrived.

    Attributes:
        envelope: The reply.
        site: Hospital that it came from.
        store: Has its blobs, until `Post.done`.
    """

    envelope: Envelope
    site: str
    store: BlobStore


class Post(Protocol):
    """What a run's grid needs; several threads may use it."""

    def nodes(self) -> list[Node]:
        """Return the run's hospitals that are online, by name."""
        ...

    def writing(self) -> AbstractContextManager[BlobStore]:
        """Yield the store for the blobs of questions, which are sent inside the `with` block."""
        ...

    def send(self, questions: Sequence[Envelope]) -> list[bool]:
        """Send questions, and return which of them are to hospitals that are known."""
        ...

    def take(self, identifiers: Iterable[str]) -> list[Answered]:
        """Return the replies to these questions that have arrived; each is returned once."""
        ...

    def done(self, answered: Answered) -> None:
        """Remove the blobs of a reply that was taken and read."""
        ...

    def open(self, identifiers: Iterable[str]) -> list[str]:
        """Return those of these questions that are neither taken nor forgotten."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait for news since this thread's last wait, and return whether there is any."""
        ...


class OwnPost:
    """The way to the hospitals of a server in this process, for one run.

    Args:
        work: What is asked, by all runs.
        sessions: Who is connected.
        news: Wakes those who wait.
        deliver: Called with the sites that have new work.
        run: Name of the run.
        sites: Hospitals that it gets; all if empty.
    """

    def __init__(
        self,
        work: OpenWork,
        sessions: Sessions,
        news: News,
        deliver: Callable[[Iterable[str]], None],
        run: str = "",
        sites: Collection[str] = (),
    ) -> None:
        self._work, self._sessions, self._news = work, sessions, news
        self._deliver = deliver
        self.run = run
        self._chosen = {node_of(site) for site in sites}
        self._taken: dict[str, Asked] = {}  # and not done, by identifier of the question

    def nodes(self) -> list[Node]:
        """Return the run's hospitals that are online, by name."""
        return [node for node in self._sessions.nodes() if self._gets(node.node_id)]

    @contextmanager
    def writing(self) -> Iterator[BlobStore]:
        """Yield the store for the blobs of questions, which are sent inside the `with` block."""
        with self._work.asking():
            yield self._work.questions

    def send(self, questions: Sequence[Envelope]) -> list[bool]:
        """Send questions, and return which of them are to hospitals that are known."""
        sites = [self._site_of(each.node) for each in questions]
        for envelope, site in zip(questions, sites, strict=True):
            if site is None:
                self._work.give_up(envelope)
            else:
                self._work.ask(envelope, site, self.run)
        self._deliver([site for site in sites if site is not None])
        return [site is not None for site in sites]

    def take(self, identifiers: Iterable[str]) -> list[Answered]:
        """Return the replies to these questions that have arrived; each is returned once."""
        taken = self._work.take(identifiers, self.run)
        self._taken |= {each.envelope.message_id: each for each in taken}
        return [
            Answered(each.reply, each.site, self._work.replies(each.site))
            for each in taken
            if each.reply is not None
        ]

    def done(self, answered: Answered) -> None:
        """Remove the blobs of a reply that was taken and read."""
        self.done_with([answered.envelope.reply_to])

    def done_with(self, identifiers: Iterable[str]) -> None:
        """Remove the blobs of the replies to these questions."""
        for identifier in identifiers:
            asked = self._taken.pop(identifier, None)
            if asked is not None:
                self._work.done(asked)
        self._work.sweep()

    def open(self, identifiers: Iterable[str]) -> list[str]:
        """Return those of these questions that are neither taken nor forgotten."""
        return [each for each in identifiers if self._work.is_open(each)]

    def wait(self, timeout_s: float) -> bool:
        """Wait for news since this thread's last wait, and return whether there is any."""
        return self._news.wait(timeout_s)

    def close(self) -> dict[str, list[str]]:
        """Forget all that the run has asked; return by site what was not answered."""
        unanswered = self._work.close_run(self.run)
        self.done_with(list(self._taken))
        return unanswered

    def _site_of(self, number: int) -> str | None:
        return self._sessions.site_of(number) if self._gets(number) else None

    def _gets(self, number: int) -> bool:
        return not self._chosen or number in self._chosen
