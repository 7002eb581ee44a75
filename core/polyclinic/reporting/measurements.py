"""The figures of a run: metrics.jsonl read into frozen dataclasses.

Names that came from hospitals are cleaned of control characters here, and nothing more: whoever shows them escapes them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

Phase = Literal["train", "validate", "test"]
PHASES: tuple[Phase, ...] = ("train", "validate", "test")


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


def read_metrics(path: Path) -> tuple[tuple[Metric, ...], int]:
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


def clean(value: object) -> str:
    """A word from a file, without the control characters that would steer a terminal."""
    return (
        ""
        if value is None
        else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    )


def number(value: object) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def count(value: object) -> int | None:
    """A whole number, or None."""
    return value if isinstance(value, int) else None


def _parse_metric(line: Mapping[str, Any]) -> Metric:
    if line["phase"] not in PHASES or not isinstance(line["round"], int):
        raise ValueError(f"not a measurement: {line}")
    scores = {
        clean(k): v
        for k, raw in (line.get("scores") or {}).items()
        if (v := number(raw)) is not None
    }
    score = number(line.get("score"))
    return Metric(
        arm=clean(line["arm"]),
        round=line["round"],
        phase=line["phase"],
        site=clean(line["site"]),
        num_examples=count(line.get("num_examples")),
        loss=number(line.get("loss")),
        score=fmean(scores.values()) if score is None and scores else score,
        scores=scores,
        missing=clean(line["missing"]) if line.get("missing") else None,
    )
