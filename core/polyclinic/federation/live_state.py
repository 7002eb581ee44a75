"""The live state of a run: events change it, and a live table shows it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class SiteRow:
    """The live state of one hospital.

    Attributes:
        doing: What it does, such as `training`.
        loss: Its last training loss.
        score: Its last score.
        since: Monotonic time in seconds at which `doing` last changed.
        describes: Whether it only describes its images, so that no contribution is expected.
        amount: How much work that is, in words; empty where it is not known.
    """

    doing: str = "joined"
    loss: float | None = None
    score: float | None = None
    since: float = field(default_factory=time.monotonic)
    describes: bool = False
    amount: str = ""


class LiveState:
    """The live state of a run.

    Args:
        arms: Title of every strategy of the run, by name.
        rounds: Number of rounds of each strategy.
        score_name: Name of the score, such as Dice.
        without_rounds: Names of the strategies in which hospitals contribute without rounds.
        expected: Number of contributions to each of these; 0 if not known.

    Attributes:
        rows: Hospitals by name.
        contributed: Hospitals that have contributed to the current strategy or stage.
        stage: Number of the current stage, and number of all stages.
        news: Last sentence about the run.
        memory: Values that a method's events keep for later events, by keys of the method.
    """

    def __init__(
        self,
        arms: Mapping[str, str],
        rounds: int,
        score_name: str,
        without_rounds: frozenset[str] = frozenset(),
        expected: int = 0,
    ) -> None:
        self.arms = dict(arms)
        self.rounds = rounds
        self.score_name = score_name
        self.without_rounds = without_rounds
        self.expected = expected
        self.rows: dict[str, SiteRow] = {}
        self.contributed: set[str] = set()
        self.stage = (1, 1)
        self.memory: dict[str, Any] = {}
        self.news = "starting"
        self.arm = ""
        self.round = 0
        self.started = time.monotonic()
        self._steps_done = 0  # rounds and final tests, over all strategies with rounds
        self._paced_s = 0.0  # seconds that these took
        self._since: float | None = None
        self._ended: set[str] = set()

    @property
    def in_rounds(self) -> bool:
        """Whether the current strategy works in rounds."""
        return self.arm not in self.without_rounds

    def row(self, site: str) -> SiteRow:
        """Return a hospital's row; make a new one if it has none."""
        return self.rows.setdefault(site, SiteRow())

    def set_doing(self, site: str, doing: str, amount: str = "") -> SiteRow:
        """Set what a hospital does now, and how much work it is in words; return its row."""
        row = self.row(site)
        row.doing, row.amount, row.since = doing, amount, time.monotonic()
        return row

    def begin(self, arm: str, title: str, rounds: int, offset: int, expected: int) -> str:
        """Begin a strategy, or go on with it after a restart; return a line to print.

        Args:
            arm: Name of the strategy.
            title: Title of the strategy.
            rounds: Number of rounds.
            offset: Rounds that were complete before a restart.
            expected: Number of contributions to expect; 0 if not known.
        """
        again = self.arm == arm
        self.arm, self.round = arm, offset
        if self.in_rounds:
            self._since = time.monotonic()
            return f"{title}: {rounds - offset} rounds"
        self.expected = expected or self.expected
        self.contributed = self.contributed if again else set()
        return f"{title}: hospitals contribute when they can, {self.tally()}"

    def begin_stage(self, number: int, of: int, contributed: set[str]) -> str:
        """Begin a stage, in which every hospital may contribute again; return a line to print."""
        self.stage, self.contributed = (number, of), set(contributed)
        return f"stage {number} of {of}: {self.tally()}"

    def tally(self) -> str:
        """Return in words how many hospitals have contributed, of as many as are expected."""
        known = sum(not row.describes for row in self.rows.values())
        most = max(self.expected, known, len(self.contributed))
        return f"{len(self.contributed)} of {most} hospitals have contributed"

    def end_step(self, what: str) -> str:
        """End a round or a strategy's final test; return the means over hospitals in words."""
        if not self.in_rounds:
            return f"{self.arms.get(self.arm, self.arm)}: {self.tally()}{self._mean_score()}"
        self._steps_done += 1
        moment = time.monotonic()
        self._paced_s += moment - (self._since or moment)
        self._since = moment
        losses = [row.loss for row in self.rows.values() if row.loss is not None]
        loss = f"loss {sum(losses) / len(losses):.3f}" if losses else ""
        answered = sum(row.doing == "done" for row in self.rows.values())
        return (
            f"{self.arms.get(self.arm, self.arm)}, {what}: {loss}{self._mean_score()}, "
            f"{answered} of {len(self.rows)} hospitals{self.time_left()}"
        )

    def end_arm(self) -> str:
        """End a strategy; return a line to print."""
        if not self.in_rounds:
            self._ended.add(self.arm)
        return self.end_step("test")

    @property
    def share(self) -> float:
        """Share of the work that is done, 0 to 1.

        Every round, every expected contribution and every strategy's final test count one.
        """
        arrivals = max(1, self.expected)
        without = [arm for arm in self.arms if arm in self.without_rounds]
        total = (len(self.arms) - len(without)) * (self.rounds + 1) + len(without) * (arrivals + 1)
        done: float = self._steps_done + len(self._ended) * (arrivals + 1)
        if not self.in_rounds and self.arm not in self._ended:
            stages_done = (self.stage[0] - 1) * arrivals + min(arrivals, len(self.contributed))
            done += stages_done / self.stage[1]
        return min(1.0, done / max(1, total))

    def time_left(self) -> str:
        """Return the time left in words, from the pace of rounds; empty where it is not known."""
        waits = any(arm in self.without_rounds and arm not in self._ended for arm in self.arms)
        steps = sum(arm not in self.without_rounds for arm in self.arms) * (self.rounds + 1)
        if waits or not self._steps_done or self._since is None or self._steps_done >= steps:
            return ""
        spent_s = self._paced_s + time.monotonic() - self._since
        left_s = spent_s * (steps - self._steps_done) / self._steps_done
        left = f"{left_s:.0f} s" if left_s < 90 else f"{left_s / 60:.0f} min"
        return f", about {left} left"

    def _mean_score(self) -> str:
        scores = [row.score for row in self.rows.values() if row.score is not None]
        return f", {self.score_name} {sum(scores) / len(scores):.3f}" if scores else ""
