"""One phase of a round: the questions to the hospitals, until they are answered or given up."""

from collections.abc import Callable
from functools import partial
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from polyclinic.config.schemas import DeploymentConfig
from polyclinic.errors import TooFewHospitals
from polyclinic.federation.answers import (
    Failure,
    Figures,
    Outlier,
    Sketch,
    Trained,
    figures_content,
    find_outliers,
    read_figures,
    read_trained,
    sketch_of,
    take,
    trained_content,
)
from polyclinic.federation.attendance import Attendance, Listener, Member
from polyclinic.federation.envelope import array_values
from polyclinic.federation.envelope.content import pack_content, weights_of
from polyclinic.federation.events import Answered, Asked, Failed, Missing
from polyclinic.federation.grids.gate import find_too_long, weigh
from polyclinic.federation.grids.request import Read, Request, figures_of, read_any
from polyclinic.federation.news import pause, tells_news
from polyclinic.federation.records import readdress, round_of
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


class Exchange:
    """The messages of one phase, until they are answered.

    Attributes:
        outliers: What is unusual about a hospital's update, by site.
        sent: Sketch of the weights that each hospital sent.

    Args:
        grid: Grid that sends the messages.
        messages: One message to each hospital.
        deployment: Time-outs and limits.
        attendance: Hospitals of the run.
        on_event: Called with every event.
        minimum: Number of hospitals that must answer.
        read: Reads the answers to a method's own question; replies are not kept then.
        phase: What events call the question; empty for its type.
    """

    def __init__(
        self,
        grid: Grid,
        messages: list[Message],
        deployment: DeploymentConfig,
        attendance: Attendance,
        on_event: Listener,
        minimum: int,
        read: Read | None = None,
        phase: str = "",
    ) -> None:
        self._grid = grid
        self._deployment = deployment
        self._minimum = minimum
        self._attendance = attendance
        self._on_event = on_event
        self._outstanding: dict[str, Request] = {}
        packed: dict[int, RecordDict] = {}  # messages that share their content: pack it once
        for message in messages:
            weights = weights_of(message)
            key = id(message.content)
            packed[key] = packed[key] if key in packed else pack_content(message.content)
            message.content = packed[key]
            site = attendance.site_of(message.metadata.dst_node_id)
            self._outstanding[site] = Request(message, attendance.current(site), weights)
        self._read = read
        self._answers: dict[str, object] = {}
        self._replies: dict[str, Message] = {}
        self._members: dict[str, Member | None] = {}  # as they were when they answered
        self._failed: dict[str, str] = {}
        self.outliers: dict[str, Outlier] = {}
        self.sent: dict[str, Sketch] = {}
        self._weights = weights_of(messages[0]) if messages else None
        self._phase = phase or (messages[0].metadata.message_type if messages else "")
        self._round = round_of(messages[0]) if messages else 0

    def run(self, timeout_s: float) -> None:
        """Ask the hospitals, and take their answers.

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

    def replies(self) -> list[Message]:
        """Return the replies, in the order of the sites' names."""
        if self._phase.partition(".")[0] == MessageType.EVALUATE:
            for site, figures in self.figures().items():
                self._replies[site].content = figures_content(figures)
        weights = self.weights()
        for site, answer in self._trained().items():
            self._replies[site].content = trained_content(answer, weights[site])
        return [self._replies[site] for site in sorted(self._answers)]

    def answers(self) -> dict[str, Any]:
        """Return what was read of each answer, in the order of the sites' names."""
        return dict(sorted(self._answers.items()))

    def weights(self) -> dict[str, int]:
        """Return the weight of each hospital that trained, in an average over examples."""
        examples = {site: self._examples(site, each) for site, each in self._trained().items()}
        return weigh(examples, self._deployment.max_examples_ratio)

    def figures(self) -> dict[str, Figures]:
        """Return what the hospitals measured, by site."""
        return {site: figures_of(answer) for site, answer in sorted(self._answers.items())}

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

    def _must_ask_again(self, site: str, asked: Request) -> bool:
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
        replies = list(self._grid.pull_messages(list(waiting)))
        for reply in replies:
            site = waiting.pop(reply.metadata.reply_to_message_id, "")
            if site:  # else nobody asked for it
                self._take(site, reply)
        return bool(replies)

    def _take(self, site: str, reply: Message) -> None:
        asked = self._outstanding[site]
        answer = take(reply, self._reader(site, asked))
        if isinstance(answer, Failure):
            dies = answer.told and any(text in answer.reason for text in RETRIED)
            if dies and asked.tries < TRIES:
                asked.identifier = ""  # the hospital's process died: ask again
            else:
                self._fail(site, answer.reason)
            return
        self._answers[site] = answer
        if self._read is None:
            self._replies[site] = reply
        self._on_event(Answered(**self._context(site), **figures_of(answer).told()))
        self._members[site] = asked.member
        del self._outstanding[site]

    def _reader(self, site: str, asked: Request) -> Callable[[Message], object]:
        if self._read is not None:
            return partial(self._read, site)
        kind = self._phase.partition(".")[0]
        if kind == MessageType.TRAIN and asked.weights is not None:
            return partial(read_trained, asked=asked.weights)
        return read_figures if kind == MessageType.EVALUATE else read_any

    def _trained(self) -> dict[str, Trained]:
        return {
            site: answer for site, answer in self._answers.items() if isinstance(answer, Trained)
        }

    def _examples(self, site: str, answer: Trained) -> int:
        """Return the examples behind an update: no more than the hospital was greeted with."""
        member = self._members.get(site)
        greeted = member.hello.counts.get("training", 0) if member else 0
        return min(answer.figures.num_examples, max(1, greeted)) if member else 1

    def _gate(self) -> None:
        """Refuse updates that are far too long; find those that are unlike all others."""
        asked = self._weights
        updates = {site: answer.update for site, answer in self._trained().items()}
        if not updates or asked is None:
            return
        start = sketch_of(array_values(asked))
        norms = {site: update.norm for site, update in updates.items()}
        ratio, numbers = self._deployment.max_update_ratio, int(asked.shape[0])
        for site, reason in find_too_long(norms, start.norm, numbers, ratio).items():
            del self._answers[site], updates[site]
            self._fail(site, reason)
        self.outliers = find_outliers(updates)
        self.sent = {
            site: Sketch(start.norm + update.norm, start.sums + update.sums)
            for site, update in updates.items()
        }

    def _fail(self, site: str, reason: str) -> None:
        self._failed[site] = reason
        self._on_event(Failed(**self._context(site), reason=reason))
        self._outstanding.pop(site, None)

    def _context(self, site: str) -> dict[str, Any]:
        return {"phase": self._phase, "round": self._round, "site": site}

    def _is_over(self, waited_s: float, timeout_s: float) -> bool:
        if waited_s >= timeout_s:
            return True
        enough = len(self._answers) >= self._minimum
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
        self._gate()
        asked = len(self._answers) + len(self._failed)
        if asked and len(self._answers) < self._minimum:
            missing = [f"{site} ({reason})" for site, reason in sorted(self._failed.items())]
            raise TooFewHospitals(
                f"In {self._phase}", sorted(self._answers), missing, self._minimum, waited_s
            )
