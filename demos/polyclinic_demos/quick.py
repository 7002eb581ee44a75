"""`polyclinic-server demo`: a small federation on this machine, within 90 seconds on two cores.

Three hospitals have scanners that disagree. They train alone, by averaging (FedAvg), and for
models of their own (refinement). A fourth hospital joins later. It has no labels and trains
nothing, and gets a model from a description of its images. The report compares the test scores.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from polyclinic.config.compose import expand_strategies, load_config
from polyclinic.federation.events import Event
from polyclinic.federation.live_state import LiveState
from polyclinic.federation.run_folder import RunFolder
from polyclinic.federation.run_state import SCORE_NAMES
from polyclinic.system.processes import Child, stop_all
from polyclinic_demos.cohorts.hospitals import HOSPITALS, NEWCOMERS, write_cohort
from polyclinic_demos.cohorts.scanner import Scanner
from polyclinic_demos.federation import (
    PATIENCE_S,
    new_federation,
    prepare_folder,
    running,
)
from polyclinic_demos.newcomers import evaluate_newcomers
from polyclinic_demos.progress import counting
from polyclinic_demos.refinement import TITLES, complete, describing, refinement_settings
from polyclinic_server.runs.live_table import LiveTable, show
from polyclinic_strategies.merging.events import Contributed

SITES = ("mprage-3t", "low-field", "t2w")
NEWCOMER = "t2-new"
SUBJECTS = (3, 1, 1)  # of each hospital: training, validation, test
VOXEL_MM = 1.9  # no voxel is smaller: coarse images are written and read faster
BASE_ROUNDS = 1  # make the base that is fine-tuned
ARMS = ("local", "fedavg", "centre", "refinement")


def run_quick_demo(
    seed: int, folder: Path, overrides: Sequence[str], console: Console
) -> RunFolder:
    """Write the hospitals' images, run the federation, and end with the report.

    Args:
        seed: Seed of data and training.
        folder: Where everything goes.
        overrides: Further settings of `run`.
        console: Where progress is shown.

    Raises:
        PolyclinicError: A part of it failed, with its reason.
    """
    started = time.monotonic()
    settings = [
        *refinement_settings("demo_quick", len(SITES), seed, 1, overrides),
        f"strategy.base_rounds={BASE_ROUNDS}",
        "strategy.statistics=[correlation]",
        "strategy.rules=[softmax]",
        "strategy.sharpness=[0.2]",
        f"privacy.release.min_subjects={SUBJECTS[0]}",
        *overrides,
    ]
    config = [load_config(each) for each in expand_strategies(settings)][-1]
    folder = prepare_folder(folder)
    data = folder / "data" / f"quick-seed-{seed}"
    demo = new_federation(folder, [data / site for site in SITES], [data / NEWCOMER])
    titles = {arm: TITLES[arm] for arm in ARMS if arm != "centre"}
    state = LiveState(
        titles,
        config.rounds,
        SCORE_NAMES[config.data.task],
        frozenset({"refinement"}),
        len(SITES),
    )
    coordinator = demo.coordinator(*settings, "--name", demo.run.name)
    hospitals = [demo.hospital(path) for path in demo.sites]
    with running([coordinator]):
        try:
            _write_images(data, seed, hospitals, console)
            later = Later(describing(demo, demo.newcomers[0]))
            hospitals.append(later.child)
            with show(LiveTable(state, demo.statuses), console) as handle:

                def take(event: Event) -> None:
                    handle(event)
                    later.handle(event)

                demo.follow(coordinator, hospitals[:-1], take)
                run = RunFolder(demo.run.path)
                run.listeners.append(handle)
                evaluate_newcomers(run, demo.states, demo.newcomers)
        finally:
            stop_all(hospitals, PATIENCE_S)
    complete(demo, {arm: TITLES[arm] for arm in ARMS})
    demo.conclude(console, started)
    return demo.run


class Later:
    """The newcomer joins once everybody else has contributed.

    Args:
        child: Its client.
    """

    def __init__(self, child: Child) -> None:
        self.child = child
        self._contributed: set[str] = set()

    def handle(self, event: Event) -> None:
        """Take in an event of the run."""
        if isinstance(event, Contributed):
            self._contributed.add(event.site)
            if self._contributed == set(SITES) and not self.child.pid:
                self.child.start()


def coarse(scanner: Scanner) -> Scanner:
    """Return a scanner with larger voxels."""
    x, y, z = (max(size, VOXEL_MM) for size in scanner.voxel_mm)
    return replace(scanner, voxel_mm=(x, y, z))


def _write_images(folder: Path, seed: int, hospitals: Sequence[Child], console: Console) -> None:
    """Write all images, and start each hospital's client as soon as its own are there."""
    known = {scanner.name: scanner for scanner in (*HOSPITALS, *NEWCOMERS)}

    def start() -> None:
        for child in hospitals:
            if not child.pid and (folder / child.name / "dataset.json").exists():
                child.start()

    with counting(console, "writing the hospitals' images") as tell:

        def written(done: int, total: int, name: str) -> None:
            tell(done, total, name)
            start()

        write_cohort(
            folder,
            sites=len(SITES) + 1,
            subjects=SUBJECTS,
            seed=seed,
            scanners=[coarse(known[site]) for site in (*SITES, NEWCOMER)],
            on_progress=written,
            processes=1,  # the coordinator starts meanwhile
        )
    start()
    console.print(f"{len(SITES) + 1} hospitals in {folder}", markup=False)
