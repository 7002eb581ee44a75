"""When each hospital is asked for its contribution, and whether its answers are of use."""

from collections import Counter
from collections.abc import Iterable

from polyclinic.system import clock
from polyclinic.system.processes import pause_s

# Seconds between two questions for a contribution, over all hospitals that are online. A question
# costs our own fleet 10 ms of a core (so idle hospitals together 5 % of it, however many they are),
# and Flower's SuperLink 60 ms (docs/explanation/scale.md).
CALL_S, SLOW_CALL_S = 0.2, 0.3
SHORTEST_S = 0.5  # between two questions to the same hospital
MANY_REFUSALS = 3  # in a row; from then on a hospital is asked less and less often
MOST_DOUBLINGS = 7  # of the pause, so that a hospital is still asked every few minutes


class Calls:
    """What is known of every hospital's answers; all times are monotonic, in seconds.

    Args:
        poll_s: Longest pause between two questions, where hospitals are few and behave.
        tells_news: Whether the grid tells news, as our own fleet does: questions cost less then.
    """

    def __init__(self, poll_s: float, *, tells_news: bool) -> None:
        self._poll_s = poll_s
        self._call_s = CALL_S if tells_news else SLOW_CALL_S
        self._due: dict[str, float] = {}  # next question
        self._contributed: dict[str, float] = {}  # last contribution
        self._useless: dict[str, float] = {}  # since when its answers are of no use
        self._refusals: Counter[str] = Counter()  # in a row

    def is_due(self, site: str, *, urgent: bool) -> bool:
        """Return whether a site is to be asked now.

        Args:
            site: The site.
            urgent: Whether it waits for a verdict, which is urgent unless one contribution after
                another is refused.
        """
        if urgent and self._refusals[site] < MANY_REFUSALS:
            return True
        return clock.monotonic() >= self._due.get(site, 0.0)

    def call_now(self, site: str) -> None:
        """Ask a site as soon as it is idle."""
        self._due[site] = 0.0

    def call_later(self, site: str, hospitals: int) -> None:
        """Ask a site after a pause, the longer the more hospitals there are."""
        self._due[site] = clock.monotonic() + self._pause(site, hospitals)

    def failed(self, site: str) -> None:
        """Note an answer of no use."""
        self._due[site] = clock.monotonic() + self._poll_s
        self.useless(site)

    def judged(self, site: str, *, accepted: bool) -> None:
        """Note that a contribution came."""
        self._contributed[site] = clock.monotonic()
        self._refusals[site] = 0 if accepted else self._refusals[site] + 1

    def refused(self, site: str) -> None:
        """Note an answer that is refused, without a contribution."""
        self._refusals[site] += 1

    def is_refused(self, site: str) -> bool:
        """Return whether the last contribution of a site was refused."""
        return self._refusals[site] > 0

    def refused_sites(self) -> set[str]:
        """Return the sites whose last contribution was refused."""
        return {site for site, refusals in self._refusals.items() if refusals}

    def useful(self, site: str) -> None:
        """Note that a site does what it was asked to."""
        self._useless.pop(site, None)

    def useless(self, site: str) -> None:
        """Note that a site does not, since now or since earlier."""
        self._useless.setdefault(site, clock.monotonic())

    def useless_since(self) -> Iterable[tuple[str, float]]:
        """Return the sites whose answers are of no use, and since when."""
        return self._useless.items()

    def _pause(self, site: str, hospitals: int) -> float:
        shortest_s = max(SHORTEST_S, self._call_s * hospitals)
        longest_s = max(self._poll_s, shortest_s)
        if self._refusals[site] >= MANY_REFUSALS:
            return longest_s * 2.0 ** min(self._refusals[site] - MANY_REFUSALS, MOST_DOUBLINGS)
        moment = clock.monotonic()
        waited_s = moment - self._contributed.setdefault(site, moment)
        return pause_s(waited_s, shortest_s, longest_s)
