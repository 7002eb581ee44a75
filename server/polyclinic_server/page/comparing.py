"""Runs side by side: scores by hospital, the worst one and the gap, and settings that differ."""

import json
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from polyclinic.errors import ConfigError, PolyclinicError
from polyclinic.reporting.results import read_results
from polyclinic.reporting.scores import headline
from polyclinic.system.plain_yaml import parse_yaml
from polyclinic.system.text import clean, clean_lines
from polyclinic.web.looking import mark_of
from polyclinic_server.page.watching import Run

MOST_COMPARED = 6  # runs: as many colours can be told apart
MOST_KEPT = 32  # runs whose scores are kept
MOST_SETTINGS = 200  # settings that differ
LONGEST_VALUE = 300
MOST_TEXT = 200_000  # characters of a run's settings
SHARE = 0.02  # of the time that reading a run which goes on may take
FILES = ("run.json", "metrics.jsonl")
DOCUMENT = re.compile(r"^---$", re.MULTILINE)  # begins
PHASES = {"test": "final test", "validate": "last validation"}


@dataclass(frozen=True)
class Column:
    """A strategy of a run, and its scores.

    Attributes:
        run: Name of the run.
        title: Of the strategy.
        measured: Name of the score, and in which phase it was measured.
        scores: By hospital.
    """

    run: str
    title: str
    measured: str
    scores: Mapping[str, float]

    @property
    def worst(self) -> str:
        """The hospital with the lowest score; empty where there is none."""
        return min(self.scores, key=lambda site: (self.scores[site], site), default="")

    @property
    def gap(self) -> float | None:
        """How far the best hospital is from the worst; None where there are no two."""
        values = self.scores.values()
        return max(values) - min(values) if len(values) > 1 else None

    def mean(self, sites: Iterable[str]) -> float | None:
        """Return the mean over hospitals; None where one of them has no score."""
        found = [self.scores.get(site) for site in sites]
        known = [score for score in found if score is not None]
        return fmean(known) if known and len(known) == len(found) else None


@dataclass(frozen=True)
class Comparison:
    """What the page shows of several runs.

    Attributes:
        columns: Their strategies that have scores.
        sites: All hospitals with a score, by name.
        shared: Those with a score in every column: means are over these.
        settings: Names of settings that differ, with each run's value; empty where it has none.
        more: How many more of them there are.
        problems: What could not be read.
    """

    columns: tuple[Column, ...]
    sites: tuple[str, ...]
    shared: tuple[str, ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    more: int
    problems: tuple[str, ...]

    @property
    def mixed(self) -> bool:
        """Whether the figures are of several kinds."""
        return len({each.measured for each in self.columns}) > 1


class Scores:
    """Reads runs' scores again when their files changed; seldom, while a run goes on."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, float, tuple[Column, ...]]] = {}
        self._lock = threading.Lock()

    def of(self, run: Run) -> tuple[Column, ...]:
        """Return a run's strategies that have scores.

        Raises:
            RunError: Its folder is damaged.
        """
        folder = run.following.folder.path
        mark = (run.state, *(mark_of(folder / name) for name in FILES))
        with self._lock:
            known, until, columns = self._kept.get(run.name, (None, 0.0, ()))
            start = time.monotonic()
            if known == mark or (run.active and start < until):
                return columns
            columns = read_columns(folder)
            took = time.monotonic() - start
            while len(self._kept) >= MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[run.name] = (mark, start + took / SHARE, columns)
            return columns


def read_columns(folder: Path) -> tuple[Column, ...]:
    """Read the scores of a run's strategies.

    Raises:
        RunError: Its folder is damaged.
    """
    results = read_results(folder, events=False)
    table = headline(results)
    measured = f"{results.run.score_name}, {PHASES[table.source]}"
    found = []
    for arm in results.arms:
        scored = ((site, table.score(site, arm.name)) for site in table.rows)
        scores = {site: score for site, score in scored if score is not None}
        if scores:
            found.append(Column(folder.name, arm.title, measured, scores))
    return tuple(found)


def compare(runs: Sequence[Run], scores: Scores) -> Comparison:
    """Put runs side by side."""
    columns: list[Column] = []
    settings: list[Mapping[str, str]] = []
    problems = []
    for run in runs:
        settings.append({})
        try:
            columns += scores.of(run)
            settings[-1] = read_settings(_text_of(run.following.folder.path / "config.yaml"))
        except PolyclinicError as error:
            problems.append(f"{run.name}: {clean_lines(error)}")
    sites = sorted({site for each in columns for site in each.scores})
    shared = [site for site in sites if all(site in each.scores for each in columns)]
    differing = find_differences(settings)
    return Comparison(
        tuple(columns),
        tuple(sites),
        tuple(shared),
        tuple(differing[:MOST_SETTINGS]),
        max(0, len(differing) - MOST_SETTINGS),
        tuple(problems),
    )


def find_differences(
    settings: Sequence[Mapping[str, str]],
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the settings that differ, by name, with the value of each run."""
    names = sorted({name for each in settings for name in each})
    rows = [(name, tuple(each.get(name, "") for each in settings)) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def read_settings(text: str) -> dict[str, str]:
    """Read a run's settings: dotted names, with values as a person reads them.

    Args:
        text: One YAML document for each strategy; where they differ, all their values are told.

    Raises:
        ConfigError: It is no list of settings.
    """
    told: dict[str, dict[str, None]] = {}
    for document in DOCUMENT.split(text):
        try:
            found = parse_yaml(document)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise ConfigError("its settings (config.yaml) cannot be read.") from error
        flat: dict[str, str] = {}
        _flatten(found if isinstance(found, dict) else {}, "", flat)
        for name, value in flat.items():
            told.setdefault(name, {})[value] = None
    return {name: " | ".join(values)[:LONGEST_VALUE] for name, values in told.items()}


def _flatten(values: Mapping[Any, Any], prefix: str, flat: dict[str, str]) -> None:
    for key, value in values.items():
        name = f"{prefix}{clean(str(key))}"[:LONGEST_VALUE]
        if isinstance(value, dict) and value:
            _flatten(value, f"{name}.", flat)
        else:
            shown = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[name] = clean(shown)[:LONGEST_VALUE]


def _text_of(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MOST_TEXT)
    except OSError:
        return ""
