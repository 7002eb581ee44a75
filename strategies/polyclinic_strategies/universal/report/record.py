"""What run.json says of the universal model's stages, read into frozen dataclasses; `polyclinic_strategies.universal.stage_log` writes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.reporting.measurements import clean, count, number

BEFORE, UNIVERSAL = (
    "before",
    "universal",
)  # the arms of the encoder before the first stage, and after the last


@dataclass(frozen=True)
class Taught:
    """One hospital in one stage; `sent` and `received` are bytes to and from it, weight and trust are a distillation's."""

    site: str
    task: str
    num_examples: int | None
    sent: int | None
    received: int | None
    weight: float | None
    trust: float | None


@dataclass(frozen=True)
class Stage:
    """One stage; `seconds` are None while no encoder has come of it."""

    number: int
    taught: tuple[Taught, ...]
    losses: tuple[float, ...]
    steps: int
    waited_s: float | None
    seconds: float | None


@dataclass(frozen=True)
class Record:
    """All stages so far."""

    combine: str
    planned: int
    public_images: int | None
    stages: tuple[Stage, ...]


def read_record(run: Mapping[str, Any]) -> Record | None:
    """The part of run.json about the universal model; None if it has none.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is damaged.
    """
    found = run.get("universal")
    if not found:
        return None
    stages = tuple(_read_stage(stage) for stage in found.get("stages", ()))
    return Record(
        clean(found["combine"]), int(found["planned"]), count(found.get("public_images")), stages
    )


def _read_stage(stage: Mapping[str, Any]) -> Stage:
    weights, trust = stage.get("weights") or {}, stage.get("trust") or {}
    taught = tuple(
        Taught(
            site=clean(each["site"]),
            task=clean(each.get("task")),
            num_examples=count(each.get("num_examples")),
            sent=count(each.get("sent")),
            received=count(each.get("received")),
            weight=number(weights.get(each["site"])),
            trust=number(trust.get(each["site"])),
        )
        for each in stage["contributions"]
    )
    losses = tuple(value for raw in stage.get("losses") or () if (value := number(raw)) is not None)
    steps = count(stage.get("steps")) or len(losses)
    return Stage(
        int(stage["stage"]),
        taught,
        losses,
        steps,
        number(stage.get("waited_s")),
        number(stage.get("seconds")),
    )
