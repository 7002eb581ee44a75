"""What a run did and measured: its folder read into typed models.

Everything here is pure except `read_results` and what it calls.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from polyclinic.federation.events import Event
from polyclinic.federation.method import Pace, methods
from polyclinic.federation.metrics import Metric, read_metrics
from polyclinic.federation.run_folder import RunFolder
from polyclinic.federation.run_state import ComparisonState, RunState, checked

LOCAL, POOLED = "local", "pooled"  # every hospital alone; all images in one place
REFERENCES = frozenset({LOCAL, POOLED})
State = TypeVar("State", bound=BaseModel)


@dataclass(frozen=True)
class Arm:
    """One strategy of a run, compared with the others under the same conditions.

    Attributes:
        name: Unique in the run.
        title: What a reader sees.
        note: A sentence about it; may be empty.
        kind: Name of its method; empty for rounds of averaging.
        reference: Whether it is there for comparison, and no model that hospitals built together.
    """

    name: str
    title: str
    note: str = ""
    kind: str = ""
    reference: bool = False

    @property
    def federated(self) -> bool:
        """Whether hospitals build its model together without moving images."""
        return not self.reference

    @property
    def pace(self) -> Pace | None:
        """How its hospitals work; None where its method is not installed here."""
        if not self.kind:
            return "rounds"
        method = methods().get(self.kind)
        return method.pace if method else None

    @property
    def has_rounds(self) -> bool:
        """Whether it is trained in rounds."""
        return self.pace == "rounds"


@dataclass(frozen=True)
class Participant:
    """A hospital of a run, and how many of its images went where.

    Attributes:
        task: The hospital's own, where tasks differ.
        describes: Whether it joined later with a description alone, without training.
    """

    name: str
    modality: str = ""
    training: int | None = None
    validation: int | None = None
    test: int | None = None
    task: str = ""
    describes: bool = False


MOST_ROUNDS = 10_000  # that a report shows, unless more were planned
HOSPITAL_FIELDS = {field.name for field in fields(Participant)} - {"name"}


@dataclass(frozen=True)
class Results:
    """One run: what was planned, how it ended, what happened, what was measured.

    Attributes:
        folder: The run's.
        run: What run.json says.
        arms: Strategies that run.json lists, then those that only figures name.
        hospitals: The same for hospitals.
        metrics: Figures of arms.
        compared: Figures of models that an arm is compared with.
        events: What happened, in the order of time.
        rounds: Number of rounds of the arms that have rounds.
        skipped_lines: Number of damaged lines of metrics.jsonl.
        config: Resolved configuration, as YAML.
    """

    folder: Path
    run: RunState
    arms: tuple[Arm, ...]
    hospitals: tuple[Participant, ...]
    metrics: tuple[Metric, ...]
    compared: tuple[Metric, ...]
    events: tuple[Event, ...]
    rounds: int
    skipped_lines: int
    config: str

    @property
    def later(self) -> tuple[str, ...]:
        """Hospitals that joined with a description alone, without labels and without training."""
        return tuple(hospital.name for hospital in self.hospitals if hospital.describes)

    @property
    def trained(self) -> tuple[str, ...]:
        """All other hospitals."""
        return tuple(hospital.name for hospital in self.hospitals if not hospital.describes)

    def comparison_of(self, arm: Arm) -> ComparisonState | None:
        """Return what an arm is compared with; None if it is compared with the other arms alone."""
        found = self.run.comparison
        return found if found and found.arm == arm.name else None

    def part(self, name: str, model: type[State]) -> State | None:
        """Read what a method keeps in run.json under its name; None if it keeps nothing.

        Raises:
            RunError: It is damaged.
        """
        return checked(self.folder / "run.json", lambda: self.run.part(name, model), name)


def read_results(run_folder: Path, *, events: bool = True) -> Results:
    """Read a run's folder. Damaged lines of metrics.jsonl and events.jsonl are skipped.

    Args:
        run_folder: The run's.
        events: Whether to read what happened; scores do not need it, and it may be long.

    Raises:
        RunError: The folder has no run.json, or a damaged one.
    """
    run = _without_own_opponents(RunFolder(run_folder).state())
    if not run.name:
        run = run.model_copy(update={"name": run_folder.resolve().name})
    metrics, skipped = read_metrics(run_folder / "metrics.jsonl")
    arms = tuple(
        Arm(arm.name, arm.title or arm.name, arm.note, arm.kind, arm.name in REFERENCES)
        for arm in run.arms
    )
    opponents = {each.name for each in run.comparison.entries} if run.comparison else set()
    config = run_folder / "config.yaml"
    results = Results(
        folder=run_folder,
        run=run,
        arms=arms,
        hospitals=_hospitals(run, metrics),
        metrics=tuple(metric for metric in metrics if metric.arm not in opponents),
        compared=tuple(metric for metric in metrics if metric.arm in opponents),
        events=RunFolder(run_folder).events() if events else (),
        rounds=run.rounds or 0,
        skipped_lines=skipped,
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
    )
    for method in methods().values():
        if (adapt := method.load("results")) is not None:
            results = adapt(results)
    return _complete(results)


def _without_own_opponents(run: RunState) -> RunState:
    """Leave out of what an arm is compared with what is an arm itself, or has no name."""
    if run.comparison is None:
        return run
    arms = {arm.name for arm in run.arms}
    named = {each.name: each for each in run.comparison.entries if each.name}
    entries = tuple(each for name, each in named.items() if name not in arms)
    comparison = run.comparison.model_copy(update={"entries": entries})
    return run.model_copy(update={"comparison": comparison})


def _hospitals(run: RunState, metrics: Sequence[Metric]) -> tuple[Participant, ...]:
    """List the hospitals of run.json, then those that only figures name."""
    known = [
        Participant(name, **found.model_dump(include=HOSPITAL_FIELDS))
        for name, found in run.hospitals.items()
    ]
    # training on all images in one place has a name of its own in place of a hospital's
    sites = (m.site for m in metrics if m.phase != "train" or m.arm != POOLED)
    return (*known, *map(Participant, unseen(sites, [hospital.name for hospital in known])))


def _complete(results: Results) -> Results:
    """Add arms and rounds that only figures name; hospitals that joined later come last."""
    names = unseen((m.arm for m in results.metrics), [arm.name for arm in results.arms])
    arms = (*results.arms, *(Arm(name, name, reference=name in REFERENCES) for name in names))
    in_rounds = {arm.name for arm in arms if arm.has_rounds}
    rounds = max([results.rounds, *(m.round for m in results.metrics if m.arm in in_rounds)])
    rounds = min(rounds, max(results.rounds, MOST_ROUNDS))
    hospitals = tuple(sorted(results.hospitals, key=lambda hospital: hospital.describes))
    metrics = tuple(m for m in results.metrics if m.arm not in in_rounds or m.round <= rounds)
    return replace(results, arms=arms, rounds=rounds, hospitals=hospitals, metrics=metrics)


def unseen(names: Iterable[str], known: Collection[str]) -> list[str]:
    """List the names that are not known yet, each once."""
    return [name for name in dict.fromkeys(names) if name not in known]


@dataclass(frozen=True)
class SiteDistances:
    """How far hospitals are from each other, as a method measured it.

    Attributes:
        sites: Names of the hospitals.
        distances: Square matrix over them; None where nobody knows the distance.
        later: Hospitals that joined with a description alone.
        measured: By which statistic, and in which unit, in words.
    """

    sites: tuple[str, ...]
    distances: tuple[tuple[float | None, ...], ...]
    later: tuple[str, ...] = ()
    measured: str = ""


def find_distances(folder: Path, state: RunState) -> list[SiteDistances]:
    """Ask every installed method for the distances that it measured in a run.

    Args:
        folder: The run's.
        state: What its run.json says.

    Raises:
        RunError: What a method keeps in run.json is damaged.
    """
    found = []
    for method in methods().values():
        if (read := method.load("distances")) is not None:
            measured = checked(folder / "run.json", lambda: read(state), method.name)
            found += [measured] if measured is not None else []
    return found
