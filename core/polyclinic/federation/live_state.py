"""What is known of a run while it goes on: events change it, a live table draws it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class SiteRow:
    """One hospital: what it does, its last loss and score."""

    doing: str = "joined"
    loss: float | None = None
    score: float | None = None
    since: float = field(default_factory=time.monotonic)
    describes: bool = False  # it only describes its images: no contribution is expected of it


class LiveState:
    """State of a run, as events tell it.

    Args:
        arms: Title of every strategy that will be run, by name.
        rounds: Rounds of each strategy.
        score_name: Name of the score, such as Dice.
        without_rounds: Names of the strategies in which hospitals contribute without rounds.
        expected: Contributions to each of these; 0 where nobody knows.

    Attributes:
        rows: Hospitals by name.
        contributed: Hospitals that have contributed to the current strategy or stage.
        stage: Number of the current stage, and of all stages.
        news: Last sentence about the run.
        memory: What a method's events remember between each other, by a key of theirs.
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
        self._paced_s = 0.0  # time that these took
        self._since: float | None = None
        self._ended: set[str] = set()

    @property
    def in_rounds(self) -> bool:
        """Whether the current strategy works in rounds."""
        return self.arm not in self.without_rounds

    def row(self, site: str) -> SiteRow:
        """Return a hospital's row, a new one if it is not known yet."""
        return self.rows.setdefault(site, SiteRow())

    def set_doing(self, site: str, doing: str) -> SiteRow:
        """Note what a hospital does from now on."""
        row = self.row(site)
        row.doing, row.since = doing, time.monotonic()
        return row

    def begin(self, arm: str, title: str, rounds: int, offset: int, expected: int) -> str:
        """Begin a strategy, or go on with it after a restart."""
        again = self.arm == arm
        self.arm, self.round = arm, offset
        if self.in_rounds:
            self._since = time.monotonic()
            return f"{title}: {rounds - offset} rounds"
        self.expected = expected or self.expected
        self.contributed = self.contributed if again else set()
        return f"{title}: hospitals contribute when they can, {self.tally()}"

    def begin_stage(self, number: int, of: int, contributed: set[str]) -> str:
        """Begin a stage, in which every hospital may contribute anew."""
        self.stage, self.contributed = (number, of), set(contributed)
        return f"stage {number} of {of}: {self.tally()}"

    def tally(self) -> str:
        """Tell how many hospitals have contributed, of as many as are known of."""
        known = sum(not row.describes for row in self.rows.values())
        most = max(self.expected, known, len(self.contributed))
        return f"{len(self.contributed)} of {most} hospitals have contributed"

    def end_step(self, what: str) -> str:
        """Conclude a round, or a strategy's final test, and tell the means over hospitals."""
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
        """Conclude a strategy."""
        if not self.in_rounds:
            self._ended.add(self.arm)
        return self.end_step("test")

    @property
    def share(self) -> float:
        """Share of the work that is done, 0 to 1: rounds, contributions, a test for each strategy."""
        arrivals = max(1, self.expected)
        without = [arm for arm in self.arms if arm in self.without_rounds]
        total = (len(self.arms) - len(without)) * (self.rounds + 1) + len(without) * (arrivals + 1)
        done: float = self._steps_done + len(self._ended) * (arrivals + 1)
        if not self.in_rounds and self.arm not in self._ended:
            stages_done = (self.stage[0] - 1) * arrivals + min(arrivals, len(self.contributed))
            done += stages_done / self.stage[1]
        return min(1.0, done / max(1, total))

    def time_left(self) -> str:
        """Tell the time left, from the pace of rounds; nobody knows it where there are none."""
        waits = any(arm in self.without_rounds and arm not in self._ended for arm in self.arms)
        steps = sum(arm not in self.without_rounds for arm in self.arms) * (self.rounds + 1)
        if waits or not self._steps_done or self._since is None or self._steps_done >= steps:
            return ""
        spent_s = self._paced_s + time.monotonic() - self._since
        left_s = spent_s * (steps - self._steps_done) / self._steps_done
        return (
            f", about {left_s:.0f} s left" if left_s < 90 else f", about {left_s / 60:.0f} min left"
        )

    def _mean_score(self) -> str:
        scores = [row.score for row in self.rows.values() if row.score is not None]
        return f", {self.score_name} {sum(scores) / len(scores):.3f}" if scores else ""
