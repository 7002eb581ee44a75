"""What a run looks like while it goes on: a live table in a terminal, a line for each piece of news elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

DOING = {"train": "training", "evaluate": "validating", "evaluate.test": "testing"}
Statuses = Callable[[], Mapping[str, Mapping[str, Any]]]


@dataclass
class Row:
    """One hospital."""

    doing: str = "joined"
    loss: float | None = None
    score: float | None = None
    since: float = field(default_factory=time.monotonic)


class Board:
    """Takes events in, draws them.

    Args:
        arms: Title of every strategy that will be run, by name.
        rounds: Of each.
        score_name: What the score is.
        statuses: Asked for more about each hospital, where that is known (on one machine).
    """

    def __init__(self, arms: Mapping[str, str], rounds: int, score_name: str, statuses: Statuses = dict) -> None:
        self.arms = dict(arms)
        self.rounds = rounds
        self.score_name = score_name
        self.news = "starting"
        self.rows: dict[str, Row] = {}
        self._statuses = statuses
        self._arm = ""
        self._round = 0
        self._start = time.monotonic()
        self._steps_done = 0  # rounds and tests finished, over all strategies
        self._working_since: float | None = None

    def handle(self, event: Mapping[str, Any]) -> str | None:
        """Take in one event; returns a line worth printing, if it is one."""
        kind, site = event["kind"], str(event.get("site", ""))
        if kind == "arm_start":
            self._arm = str(event["arm"])
            self._round = int(event["offset"])
            self._working_since = self._working_since or time.monotonic()
            return self._say(f"{event['title']}: {int(event['rounds']) - self._round} rounds")
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
            self._say(str(event["text"]))
            return None
        if kind in ("round_end", "arm_end"):
            return self._finish(kind)
        return self._tell(kind, site, event)

    def _answer(self, site: str, event: Mapping[str, Any]) -> None:
        row = self._set(site, "done")
        if event["phase"] == "train":
            row.loss = event.get("loss")
        else:
            row.score = event.get("score")

    def _finish(self, kind: str) -> str:
        """A round's end comes after its evaluation; the final test counts as one more."""
        self._steps_done += 1
        what = f"round {self._round} of {self.rounds}" if kind == "round_end" else "test"
        scores = [row.score for row in self.rows.values() if row.score is not None]
        losses = [row.loss for row in self.rows.values() if row.loss is not None]
        mean = f", {self.score_name} {sum(scores) / len(scores):.3f}" if scores else ""
        loss = f"loss {sum(losses) / len(losses):.3f}" if losses else ""
        answered = sum(row.doing == "done" for row in self.rows.values())
        return self._say(
            f"{self.arms.get(self._arm, self._arm)}, {what}: {loss}{mean}, {answered} of {len(self.rows)} hospitals{self._left()}"
        )

    def _tell(self, kind: str, site: str, event: Mapping[str, Any]) -> str | None:
        """Everything about coming and going."""
        reason = event.get("reason", "")
        lines = {
            "joined": f"{site} joined ({event.get('modality', '')}, {event.get('training', '?')} training cases)",
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
            self._set(site, {"returned": "joined", "left": "offline"}.get(kind, kind))
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
        """How much of the work is done, 0 to 1."""
        return min(1.0, self._steps_done / max(1, len(self.arms) * (self.rounds + 1)))

    def _left(self) -> str:
        """Time left, from the pace so far."""
        if not self._steps_done or self._working_since is None or self.share >= 1.0:
            return ""
        left_s = (time.monotonic() - self._working_since) * (1 / self.share - 1)
        return f", about {left_s:.0f} s left" if left_s < 90 else f", about {left_s / 60:.0f} min left"

    def __rich__(self) -> RenderableType:
        """The table."""
        statuses = self._statuses()
        table = Table(expand=False, show_edge=False, pad_edge=False)
        for title in ("hospital", "doing", "loss", self.score_name):
            table.add_column(title, justify="left" if title in ("hospital", "doing") else "right")
        for site, row in sorted(self.rows.items()):
            table.add_row(Text(site), Text(_describe(row, statuses.get(site, {}))), _figure(row.loss), _figure(row.score))
        titles = list(self.arms)
        which = f"{self.arms[self._arm]} ({titles.index(self._arm) + 1} of {len(titles)}), " if self._arm in self.arms else ""
        elapsed_s = time.monotonic() - self._start
        head = Text(
            f"{which}round {self._round} of {self.rounds}   {elapsed_s // 60:.0f}:{elapsed_s % 60:02.0f}{self._left()}", style="bold"
        )
        return Group(head, ProgressBar(total=1.0, completed=self.share, width=60), table, Text(self.news, style="dim"))


def _describe(row: Row, status: Mapping[str, Any]) -> str:
    """What a hospital is doing, as exactly as is known."""
    if row.doing == "done" or row.doing not in ("training", "validating", "testing", "training again"):
        return row.doing
    steps = f" step {status['step']} of {status['steps']}" if status.get("doing") == row.doing and "step" in status else ""
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
