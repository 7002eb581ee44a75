"""Arms of `universal.py`: how an encoder is made, each with the same passes over the labels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from teaching import Laboratory, Stages, mean_of

from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.universal.distillation import Distillation, Distilled
from polyclinic_strategies.universal.teaching.teachers import Teacher

PASSES = 12  # over the labels, in all stages of an arm, and where an encoder is fine-tuned
DISTILLED, BOTH, LIBRARY, OFTEN = "distilled", "distilled + mim", "library", "averaged often"
LONG, SHORT = Stages((PASSES // 2,) * 2), Stages((1,) * PASSES, falling=True)
# short stages first, and a long one last
HALF = PASSES // 2
MIXED = Stages((*SHORT.passes[:HALF], PASSES - HALF), True, like=OFTEN, shared=HALF)
MASKED = 300  # steps of masked image modelling
TAUGHT = Distillation(steps=100)
# a step of distillation with masked images is two of masked image modelling
LONGER = MASKED + 2 * LONG.number * TAUGHT.steps
ONCE = LONG.number * TAUGHT.steps  # steps where one stage alone is distilled
LONE = "cells-a"
FIRST, POLISHED = "averaged often, then once", "averaged often, then distilled"
TITLES = {
    "scratch": "from scratch",
    "mim": "masked image modelling (MIM)",
    "mim longer": "MIM with the same extra computing",
    "averaged": f"encoders averaged, {LONG.number} stages of {LONG.passes[0]} passes",
    OFTEN: f"encoders averaged, {SHORT.number} stages of {SHORT.passes[0]} pass",
    FIRST: f"encoders averaged, {HALF} stages of 1 pass and one of {PASSES - HALF}",
    DISTILLED: "distilled",
    BOTH: "distilled + MIM",
    POLISHED: f"encoders averaged, {HALF} stages of 1 pass; then one of {PASSES - HALF} distilled",
    LIBRARY: "library: the universal encoder or a teacher, by validation",
    "pooled": "all tasks in one place (upper bound)",
    "hostile": "distilled + MIM, three hostile hospitals more",
    "random teachers": "distilled + MIM, random teachers",
    "lone": "distilled + MIM, then a stage with one hospital",
    "lone, from before": "the same, started from the encoder before that stage",
}
CONTROLS = ("scratch", "hostile", "random teachers", "lone", "lone, from before")

Keep = Callable[..., None]
More = Callable[[StateDict, Sequence[Teacher]], Sequence[Teacher]]


def encoders(
    laboratory: Laboratory, keep: Keep, wanted: Sequence[str]
) -> Iterator[tuple[str, StateDict]]:
    """Yield the wanted arms' encoders, one after another.

    Args:
        laboratory: Makes and keeps them.
        keep: Takes figures of how they were made.
        wanted: Names of the arms.
    """
    base = laboratory.kept("mim", lambda: laboratory.masked(MASKED))
    made: dict[str, Callable[[], StateDict]] = {
        "scratch": laboratory.scratch,
        "mim": lambda: base,
        "averaged": lambda: laboratory.staged("averaged", base, LONG, _mean),
        DISTILLED: lambda: _student(
            laboratory, keep, DISTILLED, base, replace(TAUGHT, mim=0.0), _nobody
        ),
        OFTEN: lambda: laboratory.staged(OFTEN, base, SHORT, _mean),
        FIRST: lambda: laboratory.kept(FIRST, lambda: _mixed(laboratory, keep, FIRST, base)),
        POLISHED: lambda: laboratory.kept(
            POLISHED, lambda: _mixed(laboratory, keep, POLISHED, base)
        ),
        BOTH: lambda: _student(laboratory, keep, BOTH, base, TAUGHT, _nobody),
        "pooled": lambda: laboratory.kept("pooled", lambda: laboratory.pooled(base, PASSES)),
        "mim longer": lambda: laboratory.kept("mim longer", lambda: laboratory.masked(LONGER)),
        "hostile": lambda: _student(laboratory, keep, "hostile", base, TAUGHT, laboratory.hostile),
        "random teachers": lambda: laboratory.kept(
            "random teachers", lambda: _from_strangers(laboratory, base)
        ),
        "lone": lambda: laboratory.kept("lone", lambda: _lone(laboratory, keep, base, "average")),
        "lone, from before": lambda: laboratory.kept(
            "lone, from before", lambda: _lone(laboratory, keep, base, "before")
        ),
    }
    for arm, make in made.items():
        if arm in wanted:
            yield arm, make()


def last_teachers(laboratory: Laboratory, base: StateDict) -> tuple[StateDict, list[Teacher]]:
    """Return the encoder after the short stages, and everybody's after the long one.

    Args:
        laboratory: Makes and keeps them.
        base: The encoder before the first stage.
    """
    before = laboratory.staged(OFTEN, base, MIXED, _mean, until=HALF)
    return before, laboratory.teachers(before, FIRST, MIXED.number, MIXED)


def _mean(_before: StateDict, teachers: Sequence[Teacher], _stage: int) -> StateDict:
    return mean_of(teachers)


def _mixed(laboratory: Laboratory, keep: Keep, name: str, base: StateDict) -> StateDict:
    """Average short stages, and average or distil the long one that comes last."""
    before, teachers = last_teachers(laboratory, base)
    if name == FIRST:
        return mean_of(teachers)
    settings = replace(TAUGHT, mim=0.0, steps=ONCE)
    distilled = laboratory.distil(before, teachers, settings, MIXED.number)
    keep(**{f"gates/{name}": _gates(distilled)})
    return distilled.state


def _gates(distilled: Distilled) -> dict[str, Any]:
    return {site: [distilled.weights[site], distilled.trust[site]] for site in distilled.weights}


def _nobody(_before: StateDict, _teachers: Sequence[Teacher]) -> Sequence[Teacher]:
    return ()


def _student(
    laboratory: Laboratory,
    keep: Keep,
    name: str,
    base: StateDict,
    settings: Distillation,
    more: More,
) -> StateDict:
    """Distil each of the long stages."""

    def combine(before: StateDict, teachers: Sequence[Teacher], stage: int) -> StateDict:
        distilled = laboratory.distil(before, [*teachers, *more(before, teachers)], settings, stage)
        keep(**{f"gates/{name}, stage {stage}": _gates(distilled)})
        return distilled.state

    return laboratory.staged(name, base, LONG, combine)


def _lone(laboratory: Laboratory, keep: Keep, base: StateDict, start: Any) -> StateDict:
    """Return the universal encoder after one more stage with a single hospital.

    The hospital's images are unlike most others'.
    """
    ours = _student(laboratory, keep, BOTH, base, TAUGHT, _nobody)
    names = [hospital.name for hospital in laboratory.hospitals]
    only = LONE if LONE in names else names[0]
    last = LONG.number + 1
    teachers = laboratory.teachers(ours, BOTH, last, LONG, only=only)
    return laboratory.distil(ours, teachers, replace(TAUGHT, start=start), last).state


def _from_strangers(laboratory: Laboratory, base: StateDict) -> StateDict:
    """Return what as many encoders with random weights teach if all of them are believed."""
    for stage in range(1, LONG.number + 1):
        base = laboratory.distil(
            base, laboratory.strangers(stage), replace(TAUGHT, gate=False, start="before"), stage
        ).state
    return base
