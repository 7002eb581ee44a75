"""What a run measured: its folder read into frozen dataclasses, and the tables made of them.

Everything here is pure except `read_results`.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from polyclinic.errors import RunError
from polyclinic.reporting.measurements import Metric, Phase, clean, count, read_metrics
from polyclinic_strategies.refinement.report.record import (
    CENTRE,
    REFINED,
    Record,
    pick_results,
    read_record,
)
from polyclinic_strategies.universal.report.record import Record as UniversalRecord
from polyclinic_strategies.universal.report.record import read_record as read_universal

NOT_FEDERATED = frozenset({"local", "pooled", "before"})


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

    @property
    def has_rounds(self) -> bool:
        """Whether it is trained in rounds."""
        return self.kind not in ("merging", "refinement", "universal")


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
    task: str = ""  # where it is the hospital's own


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
    refinement: Record | None = None
    universal: UniversalRecord | None = None

    @property
    def later(self) -> tuple[str, ...]:
        """The hospitals that joined with a description alone, without labels and without training."""
        joined = self.refinement.later if self.refinement else ()
        return tuple(hospital.name for hospital in self.hospitals if hospital.name in joined)

    @property
    def trained(self) -> tuple[str, ...]:
        """All others."""
        return tuple(
            hospital.name for hospital in self.hospitals if hospital.name not in self.later
        )


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
        raise RunError(
            f"{path}: cannot be read ({error}). The run has no report without it."
        ) from error
    metrics, skipped = read_metrics(run_folder / "metrics.jsonl")
    try:
        return _build(run_folder, run, metrics, skipped)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(
            f"{path}: is damaged ({problem}). The run has no report without it."
        ) from error


def _build(
    folder: Path, run: Mapping[str, Any], metrics: tuple[Metric, ...], skipped: int
) -> Results:
    arms = [
        Arm(
            clean(a["name"]),
            clean(a.get("title") or a["name"]),
            clean(a.get("note")),
            clean(a.get("kind")),
        )
        for a in run["arms"]
    ]
    comparison = _compare(run.get("comparison"), metrics, {arm.name for arm in arms})
    compared = {entry.name for entry in comparison.entries} if comparison else set()
    sites = (
        m.site for m in metrics if m.phase != "train" or m.arm != "pooled"
    )  # pooled trains under a name of its own
    metrics = tuple(m for m in metrics if m.arm not in compared)
    refinement = read_record(run)
    if refinement:
        metrics = pick_results(metrics, {arm.name for arm in arms})
    arms += [Arm(name, name) for name in _unseen((m.arm for m in metrics), [a.name for a in arms])]
    if refinement:
        arms = [
            replace(arm, kind="refinement") if arm.name in (CENTRE, REFINED) else arm
            for arm in arms
        ]
    without_rounds = {arm.name for arm in arms if not arm.has_rounds}
    hospitals = [
        Hospital(
            clean(name),
            clean(h.get("modality")),
            count(h.get("training")),
            count(h.get("validation")),
            count(h.get("test")),
            clean(h.get("task")),
        )
        for name, h in run.get("hospitals", {}).items()
    ]
    hospitals += [
        Hospital(name)
        for name in _unseen(
            [*sites, *(refinement.sites if refinement else ())], [h.name for h in hospitals]
        )
    ]
    if refinement:
        order = {name: number for number, name in enumerate(refinement.later)}
        hospitals.sort(key=lambda hospital: order.get(hospital.name, -1))
    config = folder / "config.yaml"
    return Results(
        folder=folder,
        name=clean(run.get("name") or folder.resolve().name),
        state=clean(run["state"]),
        reason=clean(run.get("reason")),
        started=clean(run.get("started")),
        finished=clean(run.get("finished")),
        versions={clean(k): clean(v) for k, v in (run.get("versions") or {}).items()},
        seed=count(run.get("seed")),
        rounds=max(
            [
                count(run.get("rounds")) or 0,
                *(m.round for m in metrics if m.arm not in without_rounds),
            ]
        ),
        task=clean(run.get("task") or "segmentation"),
        score_name=clean(run.get("score_name") or "score"),
        labels=tuple(clean(label) for label in run.get("labels") or ()),
        arms=tuple(arms),
        hospitals=tuple(hospitals),
        metrics=metrics,
        skipped_lines=skipped,
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        comparison=comparison,
        refinement=refinement,
        universal=read_universal(run),
    )


def _compare(
    compared: Mapping[str, Any] | None, metrics: Sequence[Metric], arms: Collection[str]
) -> Comparison | None:
    """What run.json names as compared with a merging arm; what is an arm itself stays one."""
    if not compared:
        return None
    keys = ("name", "title", "group", "note")
    read = [Entry(*(clean(e.get(key)) for key in keys)) for e in compared.get("entries", ())]
    entries = {entry.name: entry for entry in read if entry.name and entry.name not in arms}
    return Comparison(
        clean(compared["arm"]),
        tuple(entries.values()),
        tuple(m for m in metrics if m.arm in entries),
    )


def headline(results: Results) -> ScoreTable:
    """The mean score per hospital and arm: of the test images, or of the last validation while no test is in."""
    return score_table(results, None)


def by_label(results: Results, averaged: Collection[str] | None = None) -> dict[str, ScoreTable]:
    """The same per tissue (segmentation) or class (classification)."""
    found = [
        label for metric in _latest(results, _source(results)).values() for label in metric.scores
    ]
    ordered = [label for label in results.labels if label in found]
    return {
        label: score_table(results, label, averaged)
        for label in [*ordered, *_unseen(found, ordered)]
    }


def score_table(
    results: Results, label: str | None, averaged: Collection[str] | None = None
) -> ScoreTable:
    """Scores of one label, or the mean score where `label` is None.

    `averaged` are the hospitals that the mean may be over: those that joined with a description alone are not among them by default.
    """
    source = _source(results)
    latest = _latest(results, source)
    scores: dict[str, dict[str, float]] = {hospital.name: {} for hospital in results.hospitals}
    for (arm, site), metric in latest.items():
        value = metric.score if label is None else metric.scores.get(label)
        if value is not None:
            scores[site][arm] = value
    wanted = {
        site: row
        for site, row in scores.items()
        if site in (results.trained if averaged is None else averaged)
    }
    scored = {arm for row in wanted.values() for arm in row}
    same = tuple(site for site, row in wanted.items() if scored and scored == set(row))
    means = {arm: fmean(scores[site][arm] for site in same) for arm in scored} if same else {}
    rows = {site: _row(row, results.arms) for site, row in scores.items()}
    return ScoreTable(source, rows, _row(means, results.arms), same)


def _row(scores: Mapping[str, float], arms: Sequence[Arm]) -> dict[str, Cell]:
    federated = [round(scores[arm.name], 3) for arm in arms if arm.federated and arm.name in scores]
    local = scores.get("local")
    cells = {}
    for arm in arms:
        score = scores.get(arm.name)
        difference = (
            None
            if score is None or local is None or arm.name == "local"
            else round(score, 3) - round(local, 3)
        )
        best = score is not None and arm.federated and round(score, 3) == max(federated)
        cells[arm.name] = Cell(score, difference, best)
    return cells


def _source(results: Results) -> Phase:
    return (
        "test"
        if any(m.phase == "test" and m.score is not None for m in results.metrics)
        else "validate"
    )


def _latest(results: Results, phase: Phase) -> dict[tuple[str, str], Metric]:
    """Per arm and site, the phase's scored metric of the highest round."""
    scored = [m for m in results.metrics if m.phase == phase and m.score is not None]
    return {(m.arm, m.site): m for m in sorted(scored, key=lambda m: m.round)}


def _unseen(names: Iterable[str], known: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name not in known]
