"""A Grid for hospitals that may leave and come back; Flower's strategies run on it unchanged.

Flower's own `send_and_receive` looks for replies every 3 s and waits for every node. `ReliableGrid`

- looks for replies more often, and at once where the inner grid tells news,
- asks a hospital again that went away and came back,
- ends when the hospitals that are online have answered, and says who is missing,
- reads each answer once; one that is of no use is its hospital's failure,
- sorts the replies by the sites' names, so that equal seeds give equal sums.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from polyclinic.config.schemas import DeploymentConfig
from polyclinic.federation.answers import Figures, Sketch, Teller, find_repeated
from polyclinic.federation.attendance import Attendance, Listener
from polyclinic.federation.envelope import make_message
from polyclinic.federation.events import Note
from polyclinic.federation.grids.exchange import Exchange
from polyclinic.federation.grids.passing import PassingGrid
from polyclinic.federation.grids.request import Read

Value = TypeVar("Value")


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
        self._limited: set[str] = set()  # hospitals that count less than they claim
        self._sent: dict[str, Sketch] = {}  # weights of the last round
        self._teller = Teller("update")

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
            Replies of the hospitals that answered, in the order of the sites' names. Those to
            `train` and `evaluate` hold what was read of them, and nothing else.

        Raises:
            TooFewHospitals: Fewer than the minimum answered in time.
        """
        exchange = self._exchange(messages, self._deployment.min_hospitals)
        exchange.run(self._longest(timeout))
        self._tell_limits(exchange)
        self._tell_outliers(exchange)
        return exchange.replies()

    def ask_for_figures(self, messages: Iterable[Message]) -> dict[str, Figures]:
        """Ask hospitals for scores, and return what they measured, by site, however few answer.

        Args:
            messages: One message to each hospital.
        """
        exchange = self._exchange(messages, 0)
        exchange.run(self._longest(None))
        return exchange.figures()

    def ask(
        self,
        kind: str,
        contents: Mapping[str, RecordDict],
        read: Callable[[str, Message], Value],
        minimum: int,
        phase: str = "",
    ) -> dict[str, Value]:
        """Ask a method's own question.

        Args:
            kind: Type of the messages.
            contents: What each hospital is asked.
            read: Called once with each hospital and its answer; what it raises is that hospital's
                failure.
            minimum: Number of hospitals that must answer.
            phase: What events call the question; empty for its type.

        Returns:
            What was read, in the order of the sites' names.

        Raises:
            TooFewHospitals: Fewer than the minimum answered in time.
        """
        messages = []
        for site, content in contents.items():
            member = self._attendance.current(site)
            messages.append(make_message(content, member.node if member else 0, kind))
        exchange = self._exchange(messages, minimum, read, phase)
        exchange.run(self._longest(None))
        return exchange.answers()

    def sites(self, nodes: Iterable[int]) -> list[str]:
        """Return the sites of nodes."""
        return [self._attendance.site_of(node) for node in nodes]

    def tell(self, text: str) -> None:
        """Record a sentence for the person who watches the run."""
        self._on_event(Note(text=text))

    def _tell_limits(self, exchange: Exchange) -> None:
        """Tell, once for each hospital, that it counts less than it claims."""
        figures = exchange.figures()
        for site, weight in exchange.weights().items():
            claimed = figures[site].num_examples
            if weight < claimed and site not in self._limited:
                self._limited.add(site)
                text = f"{site} counts as {weight} training cases in averages, it claims {claimed}"
                self._on_event(Note(text=text))

    def _tell_outliers(self, exchange: Exchange) -> None:
        """Tell, once for each hospital and kind, that an update is unlike the others'."""
        repeated = find_repeated(self._sent, exchange.sent)
        self._sent |= exchange.sent
        for sentence in self._teller.tell(repeated | exchange.outliers):
            self._on_event(Note(text=sentence))

    def _longest(self, timeout: float | None) -> float:
        longest_s = self._deployment.round_timeout_s
        return longest_s if timeout is None else min(timeout, longest_s)

    def _exchange(
        self,
        messages: Iterable[Message],
        minimum: int,
        read: Read | None = None,
        phase: str = "",
    ) -> Exchange:
        asked, attendance = list(messages), self._attendance
        return Exchange(
            self, asked, self._deployment, attendance, self._on_event, minimum, read, phase
        )
