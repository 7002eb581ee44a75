"""What a run looks like while it goes on: a live table in a terminal, a line for each piece of news elsewhere."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from polyclinic_strategies.refinement.report.live_events import KINDS, RefinementNews

DOING = {"train": "training", "evaluate": "validating", "evaluate.test": "testing"}
Statuses = Callable[[], Mapping[str, Mapping[str, Any]]]


@dataclass
class Row:
    """One hospital."""

    doing: str = "joined"
    loss: float | None = None
    score: float | None = None
    since: float = field(default_factory=time.monotonic)
    describes: bool = False  # it only describes itself, so no contribution is expected of it


class Board:
    """Takes events in, draws them.

    Args:
        arms: Title of every strategy that will be run, by name.
        rounds: Of each.
        score_name: What the score is.
        statuses: Asked for more about each hospital, where that is known (on one machine).
        merging: Names of the strategies without rounds, in which hospitals contribute whenever they like.
        expected: Contributions in each of these; 0 where nobody knows.
    """

    def __init__(
        self, arms: Mapping[str, str], rounds: int, score_name: str, statuses: Statuses = dict, merging: Collection[str] = (),
        expected: int = 0,
    ) -> None:  # fmt: skip
        self.arms = dict(arms)
        self.rounds = rounds
        self.score_name = score_name
        self.news = "starting"
        self.rows: dict[str, Row] = {}
        self.merging = frozenset(merging)
        self.expected = expected
        self._statuses = statuses
        self._arm = ""
        self._round = 0
        self._start = time.monotonic()
        self._steps_done = 0  # rounds, contributions and tests finished, over all strategies
        self._rounds_done = 0  # of these, what was done in rounds and has a pace
        self._paced_s = 0.0
        self._since: float | None = None
        self._contributed: set[str] = set()
        self._ended: set[str] = set()
        self._stage = (1, 1)  # which of how many: the universal model's
        self._refinement = RefinementNews()

    def handle(self, event: Mapping[str, Any]) -> str | None:
        """Take in one event; returns a line worth printing, if it is one."""
        kind, site = event["kind"], str(event.get("site", ""))
        if kind in ("arm_start", "stage"):
            return self._begin(event) if kind == "arm_start" else self._begin_stage(event)
        if kind == "asked":
            self._round = int(event["round"]) or self._round
            again = " again" if event.get("again") else ""
            self._set(site, f"{DOING.get(event['phase'], event['phase'])}{again}")
            return None
        if kind == "answered":
            self._round = int(event["round"]) or self._round
            self._answer(site, event)
            return None
        if kind == "progress":
            if site:
                self._set(site, str(event["text"]))
            else:
                self._say(str(event["text"]))
            return None
        if kind in ("round_end", "arm_end"):
            return self._finish(kind)
        return (
            self._take_refinement(event)
            if kind in KINDS
            else self._take_arrival(kind, site, event) or self._tell(kind, site, event)
        )

    @property
    def _is_merging(self) -> bool:
        return self._arm in self.merging

    def _begin(self, event: Mapping[str, Any]) -> str:
        """A strategy begins, or begins again after a restart."""
        again = self._arm == str(event["arm"])
        self._arm = str(event["arm"])
        self._round = int(event["offset"])
        if not self._is_merging:
            self._since = time.monotonic()
            return self._say(f"{event['title']}: {int(event['rounds']) - self._round} rounds")
        self.expected = int(event.get("expected") or self.expected)
        self._contributed = self._contributed if again else set()
        return self._say(f"{event['title']}: hospitals contribute when they can, {self._tally()}")

    def _begin_stage(self, event: Mapping[str, Any]) -> str:
        """Everybody may contribute anew."""
        self._stage = (int(event["number"]), int(event["of"]))
        self._contributed = {str(site) for site in event.get("sites") or ()}
        return self._say(f"stage {self._stage[0]} of {self._stage[1]}: {self._tally()}")

    def _tally(self) -> str:
        """How many have contributed, of as many as are known of."""
        most = max(
            self.expected,
            sum(not row.describes for row in self.rows.values()),
            len(self._contributed),
        )
        return f"{len(self._contributed)} of {most} hospitals have contributed"

    def _take_arrival(self, kind: str, site: str, event: Mapping[str, Any]) -> str | None:
        """What happens only where there are no rounds."""
        reason, number = event.get("reason", ""), event.get("number", "?")
        if kind == "contribution":
            self._contributed.add(site)
            late = f", made {event['staleness']} bases ago" if event.get("staleness") else ""
            text = f"{site} contributed ({event.get('num_examples', '?')} training cases{late}): {self._tally()}"
            doing = "contributed"
        elif kind == "duplicate":
            text, doing = f"{site} handed in what was there already; it counts once", "contributed"
        elif kind == "contribution_refused":
            text, doing = f"{site}'s contribution was refused: {reason}", "refused"
        elif kind == "withdrawn":
            self._contributed.discard(site)
            text, doing = (
                f"{site}'s contribution was withdrawn" + (f": {reason}" if reason else ""),
                "withdrawn",
            )
        elif kind == "scored":
            text, doing = f"{site} scored model {number}", f"scored model {number}"
            if isinstance(event.get("score"), int | float):
                self.rows.setdefault(site, Row()).score = float(event["score"])
                text += f": {self.score_name} {event['score']:.3f}"
        elif kind in ("published", "resumed"):
            self._contributed |= {str(each) for each in event.get("sites") or ()}
            return self._say(
                _describe_published(event)
                if kind == "published"
                else f"the coordinator goes on where it stopped, {self._tally()}"
            )
        else:
            return None
        self._set(site, doing)
        return self._say(text)

    def _take_refinement(self, event: Mapping[str, Any]) -> str | None:
        """What happens only where hospitals get models of their own."""
        news = self._refinement.take(event)
        for site, doing in news.doing.items():
            self._set(site, doing)
        return self._say(news.line) if news.line else None

    def _answer(self, site: str, event: Mapping[str, Any]) -> None:
        scored = self._is_merging and event["phase"] == "evaluate"
        row = self._set(site, f"scored model {event['round']}" if scored else "done")
        if event.get("arm", self._arm) != self._arm:
            return  # a model that this strategy's is compared with
        if event["phase"] == "train":
            row.loss = event.get("loss")
        else:
            row.score = event.get("score")

    def _finish(self, kind: str) -> str:
        """A round's end comes after its evaluation; the final test counts as one more."""
        if self._is_merging:
            return self._finish_merging(kind)
        self._steps_done += 1
        self._rounds_done += 1
        moment = time.monotonic()
        self._paced_s += moment - (self._since or moment)
        self._since = moment
        what = f"round {self._round} of {self.rounds}" if kind == "round_end" else "test"
        scores = [row.score for row in self.rows.values() if row.score is not None]
        losses = [row.loss for row in self.rows.values() if row.loss is not None]
        mean = f", {self.score_name} {sum(scores) / len(scores):.3f}" if scores else ""
        loss = f"loss {sum(losses) / len(losses):.3f}" if losses else ""
        answered = sum(row.doing == "done" for row in self.rows.values())
        return self._say(
            f"{self.arms.get(self._arm, self._arm)}, {what}: {loss}{mean}, {answered} of {len(self.rows)} hospitals{self._left()}"
        )

    def _finish_merging(self, kind: str) -> str:
        """A merging strategy is at its end."""
        if kind == "arm_end":
            self._ended.add(self._arm)
        scores = [row.score for row in self.rows.values() if row.score is not None]
        mean = f", {self.score_name} {sum(scores) / len(scores):.3f}" if scores else ""
        return self._say(f"{self.arms.get(self._arm, self._arm)}: {self._tally()}{mean}")

    def _tell(self, kind: str, site: str, event: Mapping[str, Any]) -> str | None:
        """Everything about coming and going."""
        reason, describes = event.get("reason", ""), event.get("mode") == "describe"
        cases = (
            "with a description alone"
            if describes
            else f"{event.get('training', '?')} training cases"
        )
        lines = {
            "joined": f"{site} joined ({event.get('modality', '')}, {cases})",
            "returned": f"{site} is back",
            "left": f"{site} went offline",
            "refused": f"{site} was refused: {reason}",
            "failed": f"{site} failed: {reason}",
            "missing": f"{site} is missing: {reason}",
            "waiting": f"waiting for hospitals: {len(event.get('present', []))} of {event.get('wanted', '?')} are here",
            "superlink": str(event.get("text", "")),
            "note": str(event.get("text", "")),
        }
        if kind not in lines:
            return None
        if site and kind != "refused":
            row = self._set(site, {"returned": "joined", "left": "offline"}.get(kind, kind))
            row.describes |= describes
        return self._say(lines[kind])

    def _set(self, site: str, doing: str) -> Row:
        row = self.rows.setdefault(site, Row())
        row.doing, row.since = doing, time.monotonic()
        return row

    def _say(self, text: str) -> str:
        self.news = text
        return text

    @property
    def share(self) -> float:
        """How much of the work is done, 0 to 1: rounds, contributions, and a test for each strategy."""
        arrivals = max(1, self.expected)
        merging = [arm for arm in self.arms if arm in self.merging]
        total = (len(self.arms) - len(merging)) * (self.rounds + 1) + len(merging) * (arrivals + 1)
        done: float = self._steps_done + len(self._ended) * (arrivals + 1)
        if self._is_merging and self._arm not in self._ended:
            done += (
                (self._stage[0] - 1) * arrivals + min(arrivals, len(self._contributed))
            ) / self._stage[1]
        return min(1.0, done / max(1, total))

    def _left(self) -> str:
        """Time left, from the pace of rounds so far; nobody knows it while hospitals contribute when they like."""
        waits = any(arm in self.merging and arm not in self._ended for arm in self.arms)
        rounds = sum(arm not in self.merging for arm in self.arms) * (self.rounds + 1)
        if waits or not self._rounds_done or self._since is None or self._rounds_done >= rounds:
            return ""
        spent_s = self._paced_s + time.monotonic() - self._since
        left_s = spent_s * (rounds - self._rounds_done) / self._rounds_done
        return (
            f", about {left_s:.0f} s left" if left_s < 90 else f", about {left_s / 60:.0f} min left"
        )

    def __rich__(self) -> RenderableType:
        """The table."""
        statuses = self._statuses()
        table = Table(expand=False, show_edge=False, pad_edge=False)
        for title in ("hospital", "doing", "loss", self.score_name):
            table.add_column(title, justify="left" if title in ("hospital", "doing") else "right")
        for site, row in sorted(self.rows.items()):
            table.add_row(
                Text(site),
                Text(_describe(row, statuses.get(site, {}))),
                _figure(row.loss),
                _figure(row.score),
            )
        titles = list(self.arms)
        which = (
            f"{self.arms[self._arm]} ({titles.index(self._arm) + 1} of {len(titles)}), "
            if self._arm in self.arms
            else ""
        )
        elapsed_s = time.monotonic() - self._start
        where = self._tally() if self._is_merging else f"round {self._round} of {self.rounds}"
        head = Text(
            f"{which}{where}   {elapsed_s // 60:.0f}:{elapsed_s % 60:02.0f}{self._left()}",
            style="bold",
        )
        return Group(
            head,
            ProgressBar(total=1.0, completed=self.share, width=60),
            table,
            Text(self.news, style="dim"),
        )


def _describe_published(event: Mapping[str, Any]) -> str:
    """What was published, and why."""
    why = {"parameters": " with other parameters", "withdrawal": " after a withdrawal"}.get(
        str(event.get("why")), ""
    )
    sites = event.get("sites") or ()
    of = f", made of {len(sites)} contribution{'' if len(sites) == 1 else 's'}" if sites else ""
    return f"model {event.get('number', '?')} is published{why}{of}"


def _describe(row: Row, status: Mapping[str, Any]) -> str:
    """What a hospital is doing, as exactly as is known."""
    if row.doing == "done" or row.doing not in (
        "training",
        "validating",
        "testing",
        "training again",
    ):
        return row.doing
    steps = (
        f" step {status['step']} of {status['steps']}"
        if status.get("doing") == row.doing and "step" in status
        else ""
    )
    return f"{row.doing}{steps} ({time.monotonic() - row.since:.0f} s)"


def _figure(value: float | None) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ""


@contextmanager
def show(board: Board, console: Console) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Draw the board while inside; yields what takes in events."""
    if not console.is_terminal:
        yield lambda event: _print(board.handle(event), console)
        return
    with Live(board, console=console, refresh_per_second=4, transient=True):
        yield lambda event: _print(board.handle(event), console)


def _print(line: str | None, console: Console) -> None:
    if line:
        console.print(line, markup=False, soft_wrap=True)
