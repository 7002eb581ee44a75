"""Tells an address when a run ends or fails: a JSON object by POST, tried again where it fails."""

import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import requests

from polyclinic.errors import ConfigError
from polyclinic.federation.run_folder import now
from polyclinic_server.page.watching import Run

FAULTS = ("failed", "died", "interrupted", "unreadable")
ENDS = ("finished",)
PAUSES_S = (1.0, 5.0, 30.0, 120.0, 600.0)  # before each new try
TIMEOUT_S = 10.0
MOST_WAITING = 1000
LAST_S = 10.0  # for what is still to be told when the page ends


@dataclass(frozen=True)
class News:
    """What is told, and how often that was tried."""

    body: Mapping[str, str]
    tries: int = 0
    due: float = 0.0


class Webhook:
    """A thread that tells an address what ends.

    Args:
        url: The address, http or https.
        pauses_s: Seconds before each new try.

    Raises:
        ConfigError: It is no such address.
    """

    def __init__(self, url: str, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--webhook {url}: give an address that begins with https://")
        self._url, self._pauses_s = url, pauses_s
        self._waiting: queue.Queue[News] = queue.Queue(MOST_WAITING)
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._live, name="webhook", daemon=True)
        self.lost = 0  # that were given up

    def __enter__(self) -> "Webhook":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._leaving.set()
        self._thread.join(LAST_S + TIMEOUT_S)

    def tell(self, run: Run, before: str) -> None:
        """Queue the state of a run, if it is one that is told."""
        if run.state not in (*FAULTS, *ENDS):
            return
        state = run.following.state
        body = {
            "event": "fault" if run.state in FAULTS else "end",
            "run": run.name,
            "state": run.state,
            "before": before,
            "reason": (state.reason if state else run.following.problem)[:1000],
            "time": now(),
        }
        try:
            self._waiting.put_nowait(News(body))
        except queue.Full:
            self.lost += 1

    def _live(self) -> None:
        later: list[News] = []
        end = None
        while True:
            if self._leaving.is_set() and end is None:
                end = time.monotonic() + LAST_S
            if end is not None and (
                time.monotonic() > end or (not later and self._waiting.empty())
            ):
                return
            with suppress(queue.Empty):
                later.append(self._waiting.get(timeout=0.1))
            due = [news for news in later if news.due <= time.monotonic()]
            later = [news for news in later if news not in due]
            later += [again for news in due if (again := self._deliver(news))]

    def _deliver(self, news: News) -> News | None:
        """Try once; return what is to be tried again."""
        try:
            answer = requests.post(
                self._url, json=dict(news.body), timeout=TIMEOUT_S, allow_redirects=False
            )
            if answer.status_code < 300:
                return None
        except requests.RequestException:
            pass
        if news.tries >= len(self._pauses_s):
            self.lost += 1
            return None
        due = time.monotonic() + self._pauses_s[news.tries]
        return News(news.body, news.tries + 1, due)
