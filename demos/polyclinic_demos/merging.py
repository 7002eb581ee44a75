"""`polyclinic-server demo-merging`: hospitals contribute whenever they like, and much goes wrong.

They start at different times and are not equally fast. One is killed while it trains, and returns.
The coordinator is killed and taken up again, and only then the last hospital joins. The report
shows what came of it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from polyclinic.config.compose import expand_strategies, load_config
from polyclinic.federation.events import Event, Note
from polyclinic.federation.live_state import LiveState
from polyclinic.federation.run_folder import RunFolder
from polyclinic.system.processes import Child, stop_all
from polyclinic_demos.cohorts.hospitals import write_cohort
from polyclinic_demos.federation import (
    LOOK_S,
    PATIENCE_S,
    Handle,
    LocalFederation,
    kill_tree,
    new_federation,
    prepare_folder,
    running,
)
from polyclinic_demos.merging_base import pretrain_brain, pretrain_cells
from polyclinic_demos.progress import counting
from polyclinic_server.runs.live_table import LiveTable, show
from polyclinic_strategies.merging.events import Contributed

COMPARE = (
    "mean",
    "weighted_mean",
    "ties",
    "dare",
    "dare_ties",
    "fisher",
    "regmean",
    "iso_c",
    "tsv_m",
    "wudi",
    "trimmed_mean",
    "krum",
)
ARM = "merging-sum"
TITLES = {ARM: "Merging (sum)", "fedavg": "FedAvg", "pooled": "pooled"}
NOTES = {
    ARM: "task arithmetic; the hospitals choose its factor on validation images",
    "fedavg": "synchronous rounds from the same base, with as many passes",
    "pooled": "all images in one place, from the same base, with as many passes: the upper bound, "
    "impossible in reality",
}
EXPERIMENTS = {"brain": "demo_merging", "cells": "demo_cells"}  # of each cohort
SITES = 6  # of the brain cohort
SLOTS = ("1:fast", "1:slow", "1:fast", "1:slow", "1:slow", "1:fast")  # who shares a core with whom
APART_S = 5.0  # between two hospitals' starts
AWAY_S = 8.0  # how long the killed hospital and the killed coordinator stay away
KILL_AT = 0.3  # of a hospital's training
RESTART_AFTER = 3  # contributions


def run_merging_demo(
    cohort: str, subjects: int, seed: int, folder: Path, overrides: Sequence[str], console: Console
) -> RunFolder:
    """Write the images, let hospitals contribute while things go wrong, and end with the report.

    Args:
        cohort: `brain`: six simulated scanners; `cells`: the three real laboratories in the folder
            POLYCLINIC_DATA.
        subjects: Number of training subjects of each brain hospital.
        seed: Seed of data and training.
        folder: Where everything goes.
        overrides: Further settings of `run`.
        console: Where progress is shown.

    Raises:
        PolyclinicError: A part of it failed, with its reason.
    """
    started = time.monotonic()
    common = [
        f"experiment={EXPERIMENTS[cohort]}",
        "strategy=merging/sum,averaging/fedavg",
        f"strategy.compare=[{','.join(COMPARE)}]",
        "strategy.controls=true",
        "strategy.poll_s=1.0",
        f"seed={seed}",
    ]
    configs = [load_config(each) for each in expand_strategies([*common, *overrides])]
    folder = prepare_folder(folder)
    write = _prepare_cells if cohort == "cells" else _prepare_brain
    paths, settings = write(folder, subjects, seed, console)
    number = len(paths)
    at_least = (f"deployment.hospitals={number}", f"deployment.min_hospitals={number}")
    settings = [*common, *settings, *at_least, *overrides]
    demo = new_federation(folder, paths)
    state = LiveState(
        TITLES, configs[0].rounds, configs[0].data.kind.score_name, frozenset({ARM}), number
    )
    with show(LiveTable(state, demo.statuses), console) as handle:
        _play(demo, settings, handle)
        demo.train_pooled(handle)
    demo.collect_pictures()
    _add_notes(demo)
    demo.conclude(console, started)
    return demo.run


@dataclass
class Scenario:
    """What happens, and when.

    Args:
        hospitals: In the order in which they start; the last one joins after the coordinator was
            taken up again.
        coordinator: The first one.
        resumed: The one that takes the run up.
        training_of: Tells how far a hospital's training is, 0 to 1.
        say: Told what happens.
    """

    hospitals: Sequence[Child]
    coordinator: Child
    resumed: Child
    training_of: Callable[[str], float]
    say: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    contributions: int = 0
    _killed_at: dict[str, float] = field(default_factory=dict)
    _back: set[str] = field(default_factory=set)

    @property
    def leader(self) -> Child:
        """The coordinator that runs now."""
        return self.resumed if self.resumed.pid else self.coordinator

    def handle(self, event: Event) -> None:
        """Take in an event of the run."""
        self.contributions += isinstance(event, Contributed)

    def tend(self) -> None:
        """Start, kill and bring back whatever is due."""
        moment = time.monotonic()
        for number, child in enumerate(self.hospitals[:-1]):
            if not child.pid and moment - self.began >= number * APART_S:
                child.start()
        victim = self.hospitals[1]
        if victim.name not in self._killed_at and self.training_of(victim.name) >= KILL_AT:
            self._kill(victim, f"{victim.name} is killed while it trains")
        self._bring_back(victim, victim.start)
        enough = min(RESTART_AFTER, len(self.hospitals) - 1)
        if self.coordinator.name not in self._killed_at and self.contributions >= enough:
            self._kill(self.coordinator, "the coordinator is killed")
        self._bring_back(self.coordinator, self._resume)

    def is_disturbed(self, child: Child) -> bool:
        """Whether a child is away on purpose, or not yet there."""
        return not child.pid or (child.name in self._killed_at and child.name not in self._back)

    def _resume(self) -> None:
        self.resumed.start()
        last = self.hospitals[-1]
        last.start()
        self.say(f"the coordinator takes the run up from its ledger; {last.name} joins only now")

    def _kill(self, child: Child, text: str) -> None:
        self.say(text)
        self._killed_at[child.name] = time.monotonic()
        kill_tree(child.pid)
        child.wait(10.0)

    def _bring_back(self, child: Child, start: Callable[[], None]) -> None:
        killed = self._killed_at.get(child.name)
        if killed is None or child.name in self._back or time.monotonic() - killed < AWAY_S:
            return
        self._back.add(child.name)
        self.say(f"{child.name} comes back")
        start()


def _play(demo: LocalFederation, settings: Sequence[str], handle: Handle) -> None:
    """Follow the scenario until the coordinator is done."""
    hospitals = [
        demo.hospital(path, slots=SLOTS[number % len(SLOTS)])
        for number, path in enumerate(demo.sites)
    ]
    scenario = Scenario(
        hospitals,
        demo.coordinator(*settings, "--name", demo.run.name),
        demo.coordinator("--resume", demo.run.name),
        demo.training_of,
        lambda text: handle(Note(text=text)),
    )
    with running([scenario.coordinator]):
        try:
            while (status := scenario.leader.wait(LOOK_S)) != 0:
                for event in demo.events.read():
                    scenario.handle(event)
                    handle(event)
                scenario.tend()
                # a leader that ends well meanwhile is no fault
                for child in (*hospitals, *([scenario.leader] if status is not None else [])):
                    if not scenario.is_disturbed(child):
                        child.check()
        finally:
            stop_all([*hospitals, scenario.resumed], PATIENCE_S)


def _prepare_brain(
    folder: Path, subjects: int, seed: int, console: Console
) -> tuple[list[Path], list[str]]:
    """Write six simulated scanners' images, and the base; return folders and settings."""
    with counting(console, "writing the hospitals' images") as tell:
        paths = write_cohort(
            folder / "data" / f"{subjects}-subjects-seed-{seed}",
            sites=SITES,
            subjects=(subjects, 1, 2),
            seed=seed,
            on_progress=tell,
        )
    console.print(f"{len(paths)} hospitals in {paths[0].parent}", markup=False)
    base = pretrain_brain(folder / "data", seed, console)
    return paths, [f"base={base}", f"privacy.release.min_subjects={min(3, subjects)}"]


def _prepare_cells(
    folder: Path, _subjects: int, seed: int, console: Console
) -> tuple[list[Path], list[str]]:
    """Copy three real laboratories' images, and make the base; return folders and settings."""
    from polyclinic_demos.cohorts.laboratories import write_laboratories

    with console.status("copying the laboratories' images"):
        paths = write_laboratories(folder / "data" / f"cells-seed-{seed}", seed=seed)
    base = pretrain_cells(folder / "data", console)
    scales = ",".join(f"{share / len(paths):.3f}" for share in (0.5, 1.0, 1.5, 2.0))
    candidates = f"strategy.candidates.scale=[{scales}]"
    return paths, [f"base={base}", candidates]


def _add_notes(demo: LocalFederation) -> None:
    """Bring notes for the report into the run."""
    known = {arm["name"]: arm for arm in demo.run.describe()["arms"]}
    known.setdefault("pooled", {"name": "pooled", "title": "pooled"})
    order = ["local", *(name for name in known if name not in ("local", "pooled")), "pooled"]
    arms = [
        {**known[name], **({"note": NOTES[name]} if name in NOTES else {})}
        for name in order
        if name in known
    ]
    demo.run.update(arms=arms)
