"""What a run measured: its folder read into frozen dataclasses, and the tables made of them.

Everything here is pure except `read_results`. Names that came from hospitals are cleaned of control characters when
they are read, and nothing more: whoever shows them escapes them.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from polyclinic.errors import RunError

NOT_FEDERATED = frozenset({"local", "pooled"})
Phase = Literal["train", "validate", "test"]
PHASES: tuple[Phase, ...] = ("train", "validate", "test")


@dataclass(frozen=True)
class Arm:
    """One way to train, compared with the others under the same conditions."""

    name: str
    title: str
    note: str = ""
    kind: str = ""

    @property
    def federated(self) -> bool:
        """Whether hospitals build this arm's model together without moving images."""
        return self.name not in NOT_FEDERATED

    @property
    def merging(self) -> bool:
        """Whether hospitals contribute whenever they like, so that there are no rounds and `round` counts published models."""
        return self.kind == "merging"


@dataclass(frozen=True)
class Entry:
    """A model that a merging arm is compared with; `group` is rule, single, control or restored."""

    name: str
    title: str
    group: str
    note: str = ""


@dataclass(frozen=True)
class Hospital:
    """A hospital, and how many of its images went where."""

    name: str
    modality: str = ""
    training: int | None = None
    validation: int | None = None
    test: int | None = None


@dataclass(frozen=True)
class Metric:
    """What one hospital reported in one phase of one round of one arm; `missing` says why it did not."""

    arm: str
    round: int
    phase: Phase
    site: str
    num_examples: int | None = None
    loss: float | None = None
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    missing: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What a merging arm is compared with, and what was measured of that."""

    arm: str
    entries: tuple[Entry, ...]
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class Results:
    """One run: what was planned, how it ended, what was measured."""

    folder: Path
    name: str
    state: str
    reason: str
    started: str
    finished: str
    versions: Mapping[str, str]
    seed: int | None
    rounds: int
    task: str
    score_name: str
    labels: tuple[str, ...]
    arms: tuple[Arm, ...]
    hospitals: tuple[Hospital, ...]
    metrics: tuple[Metric, ...]
    skipped_lines: int
    config: str
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Cell:
    """A score, how far it is from the local arm's in the same row, and whether it is the best federated one there.

    The difference is that of the three decimals which are shown, so that a reader who subtracts finds the same.
    """

    score: float | None = None
    difference: float | None = None
    best: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """Scores of hospitals (rows) by arm.

    `averaged` names the hospitals in the mean row: those with a score in every arm that has any, so that means compare.
    """

    source: Phase
    rows: Mapping[str, Mapping[str, Cell]]
    mean: Mapping[str, Cell]
    averaged: tuple[str, ...]


def read_results(run_folder: Path) -> Results:
    """Read a run's folder; a half-written or damaged line of metrics.jsonl is counted and passed over.

    Raises:
        RunError: the folder has no run.json, or a damaged one.
    """
    path = run_folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{run_folder}: this is not a run's folder, it has no run.json.") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}). The run has no report without it.") from error
    metrics, skipped = _read_metrics(run_folder / "metrics.jsonl")
    try:
        return _build(run_folder, run, metrics, skipped)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(f"{path}: is damaged ({problem}). The run has no report without it.") from error


def _build(folder: Path, run: Mapping[str, Any], metrics: tuple[Metric, ...], skipped: int) -> Results:
    arms = [Arm(clean(a["name"]), clean(a.get("title") or a["name"]), clean(a.get("note")), clean(a.get("kind"))) for a in run["arms"]]
    comparison = _compare(run.get("comparison"), metrics, {arm.name for arm in arms})
    compared = {entry.name for entry in comparison.entries} if comparison else set()
    sites = (m.site for m in metrics if m.phase != "train" or m.arm != "pooled")  # pooled trains under a name of its own
    metrics = tuple(m for m in metrics if m.arm not in compared)
    arms += [Arm(name, name) for name in _unseen((m.arm for m in metrics), [a.name for a in arms])]
    merging = {arm.name for arm in arms if arm.merging}
    hospitals = [
        Hospital(clean(name), clean(h.get("modality")), *(_count(h.get(k)) for k in ("training", "validation", "test")))
        for name, h in run.get("hospitals", {}).items()
    ]
    hospitals += [Hospital(name) for name in _unseen(sites, [h.name for h in hospitals])]
    config = folder / "config.yaml"
    return Results(
        folder=folder,
        name=clean(run.get("name") or folder.resolve().name),
        state=clean(run["state"]),
        reason=clean(run.get("reason")),
        started=clean(run.get("started")),
        finished=clean(run.get("finished")),
        versions={clean(k): clean(v) for k, v in (run.get("versions") or {}).items()},
        seed=_count(run.get("seed")),
        rounds=max([_count(run.get("rounds")) or 0, *(m.round for m in metrics if m.arm not in merging)]),
        task=clean(run.get("task") or "segmentation"),
        score_name=clean(run.get("score_name") or "score"),
        labels=tuple(clean(label) for label in run.get("labels") or ()),
        arms=tuple(arms),
        hospitals=tuple(hospitals),
        metrics=metrics,
        skipped_lines=skipped,
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        comparison=comparison,
    )


def _compare(compared: Mapping[str, Any] | None, metrics: Sequence[Metric], arms: Collection[str]) -> Comparison | None:
    """What run.json names as compared with a merging arm; what is an arm itself stays one."""
    if not compared:
        return None
    keys = ("name", "title", "group", "note")
    read = [Entry(*(clean(e.get(key)) for key in keys)) for e in compared.get("entries", ())]
    entries = {entry.name: entry for entry in read if entry.name and entry.name not in arms}
    return Comparison(clean(compared["arm"]), tuple(entries.values()), tuple(m for m in metrics if m.arm in entries))


def _read_metrics(path: Path) -> tuple[tuple[Metric, ...], int]:
    """The readable lines, the later of two about the same thing (a resumed run), and how many were not."""
    lines = path.read_bytes().decode("utf-8", "replace").split("\n") if path.is_file() else []
    kept: dict[tuple[str, int, str, str], Metric] = {}
    skipped = 0
    for line in filter(str.strip, lines):
        try:
            metric = _parse_metric(json.loads(line))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            skipped += 1
        else:
            kept[metric.arm, metric.round, metric.phase, metric.site] = metric
    return tuple(kept.values()), skipped


def _parse_metric(line: Mapping[str, Any]) -> Metric:
    if line["phase"] not in PHASES or not isinstance(line["round"], int):
        raise ValueError(f"not a measurement: {line}")
    scores = {clean(k): v for k, raw in (line.get("scores") or {}).items() if (v := _number(raw)) is not None}
    score = _number(line.get("score"))
    return Metric(
        arm=clean(line["arm"]),
        round=line["round"],
        phase=line["phase"],
        site=clean(line["site"]),
        num_examples=_count(line.get("num_examples")),
        loss=_number(line.get("loss")),
        score=fmean(scores.values()) if score is None and scores else score,
        scores=scores,
        missing=clean(line["missing"]) if line.get("missing") else None,
    )


def headline(results: Results) -> ScoreTable:
    """The mean score per hospital and arm: of the test images, or of the last validation while no test is in."""
    return score_table(results, None)


def by_label(results: Results) -> dict[str, ScoreTable]:
    """The same per tissue (segmentation) or class (classification)."""
    found = [label for metric in _latest(results, _source(results)).values() for label in metric.scores]
    ordered = [label for label in results.labels if label in found]
    return {label: score_table(results, label) for label in [*ordered, *_unseen(found, ordered)]}


def score_table(results: Results, label: str | None) -> ScoreTable:
    """Scores of one label, or the mean score where `label` is None."""
    source = _source(results)
    latest = _latest(results, source)
    scores: dict[str, dict[str, float]] = {hospital.name: {} for hospital in results.hospitals}
    for (arm, site), metric in latest.items():
        value = metric.score if label is None else metric.scores.get(label)
        if value is not None:
            scores[site][arm] = value
    scored = {arm for row in scores.values() for arm in row}
    averaged = tuple(site for site, row in scores.items() if scored and scored == set(row))
    means = {arm: fmean(scores[site][arm] for site in averaged) for arm in scored} if averaged else {}
    rows = {site: _row(row, results.arms) for site, row in scores.items()}
    return ScoreTable(source, rows, _row(means, results.arms), averaged)


def _row(scores: Mapping[str, float], arms: Sequence[Arm]) -> dict[str, Cell]:
    federated = [round(scores[arm.name], 3) for arm in arms if arm.federated and arm.name in scores]
    local = scores.get("local")
    cells = {}
    for arm in arms:
        score = scores.get(arm.name)
        difference = None if score is None or local is None or arm.name == "local" else round(score, 3) - round(local, 3)
        best = score is not None and arm.federated and round(score, 3) == max(federated)
        cells[arm.name] = Cell(score, difference, best)
    return cells


def _source(results: Results) -> Phase:
    return "test" if any(m.phase == "test" and m.score is not None for m in results.metrics) else "validate"


def _latest(results: Results, phase: Phase) -> dict[tuple[str, str], Metric]:
    """Per arm and site, the phase's scored metric of the highest round."""
    scored = [m for m in results.metrics if m.phase == phase and m.score is not None]
    return {(m.arm, m.site): m for m in sorted(scored, key=lambda m: m.round)}


def _unseen(names: Iterable[str], known: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name not in known]


def clean(value: object) -> str:
    """A word from a file, without the control characters that would steer a terminal."""
    return "" if value is None else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
