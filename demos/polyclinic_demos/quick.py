"""`polyclinic-server demo`: a small federation, in 90 seconds on two cores.

Three hospitals have scanners that disagree. They train alone, by averaging (FedAvg), and for models
of their own (refinement). A fourth hospital joins later. It has no labels and trains nothing, and
gets a model from a description of its images. The report compares the test scores.

What takes long to import is imported when something else has been started.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM

from rich.console import Console

from polyclinic.federation.events import Event
from polyclinic.federation.run_folder import RunFolder
from polyclinic.system.nursery import nursery
from polyclinic.system.processes import Child, stop_all
from polyclinic_demos.comparison import (
    check_settings,
    comparing_settings,
    complete,
    describing,
    live_state,
)
from polyclinic_demos.federation import (
    ONE_THREAD,
    PATIENCE_S,
    SLOW,
    Handle,
    LocalFederation,
    new_federation,
    prepare_folder,
)
from polyclinic_demos.progress import counting
from polyclinic_server.runs.live_table import LiveTable, show
from polyclinic_strategies.merging.events import Contributed
from polyclinic_strategies.refinement.events import Delivered

SITES = ("mprage-3t", "low-field", "t2w")
NEWCOMER = "t2-new"
SUBJECTS = (3, 1, 1)  # of each hospital: training, validation, test
VOXEL_MM = 1.9  # no voxel is smaller: coarse images are written and read faster
ARMS = ("local", "fedavg", "centre", "refinement")
SLOTS = f"{len(SITES)}:slots"  # nobody waits for a core: three hospitals share two evenly


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
    settings = [
        *comparing_settings("demo_quick", len(SITES), seed, 1),
        "strategy.base_rounds=1",
        "strategy.statistics=[correlation]",
        "strategy.rules=[softmax]",
        "strategy.sharpness=[0.2]",
        f"privacy.release.min_subjects={SUBJECTS[0]}",
        *overrides,
    ]
    started = time.monotonic()
    with nursery(SLOW) as is_ready:
        demo = _run(settings, overrides, seed, folder, console, is_ready)
        demo.conclude(console, started)
    return demo.run


def _run(
    settings: Sequence[str],
    overrides: Sequence[str],
    seed: int,
    folder: Path,
    console: Console,
    is_ready: Callable[[], bool],
) -> LocalFederation:
    config = check_settings(settings, overrides)
    folder = prepare_folder(folder)
    data = folder / "data" / f"quick-seed-{seed}"
    demo = new_federation(folder, [data / site for site in SITES], [data / NEWCOMER])
    coordinator = demo.coordinator(*settings, "--name", demo.run.name)
    hospitals = [demo.hospital(path, slots=SLOTS) for path in demo.sites]
    started = [coordinator, *hospitals]
    try:
        _write_images(data, seed, started, console, is_ready)
        table = LiveTable(live_state(config, len(SITES), ARMS), demo.statuses)
        with show(table, console) as handle:
            newcomer = Newcomer(demo, describing(demo, demo.newcomers[0]), handle)
            started += [newcomer.child, newcomer.testing]
            demo.follow(coordinator, hospitals, newcomer.handle)
            for child in (*hospitals, newcomer.child):
                if child.pid and child.status() is None:
                    child.signal(SIGTERM)  # they end while the newcomer's model is tested
            newcomer.test()
    finally:
        stop_all(started, PATIENCE_S)
    complete(demo, ARMS)
    return demo


class Newcomer:
    """The hospital that joins later, once everybody else has contributed.

    Args:
        demo: The demo.
        child: The hospital's client.
        handle: Takes in every event of the run.

    Attributes:
        child: The hospital's client.
        testing: Tests its models.
    """

    def __init__(self, demo: LocalFederation, child: Child, handle: Handle) -> None:
        self.child = child
        self._demo = demo
        self._handle = handle
        self._contributed: set[str] = set()
        where = (str(demo.states), *map(str, demo.newcomers))
        self.testing = demo.module(
            "the newcomer's test", "polyclinic_demos.newcomers", *where, env=ONE_THREAD
        )

    def handle(self, event: Event) -> None:
        """Pass an event on, and do what it is time for."""
        self._handle(event)
        if isinstance(event, Contributed):
            self._contributed.add(event.site)
            if self._contributed == set(SITES) and not self.child.pid:
                self.child.start()
        elif isinstance(event, Delivered) and not self.testing.pid:
            self.testing.start()  # the models that everybody gets, while the coordinator goes on

    def test(self) -> None:
        """Test the models that there are by now: only the demo has the newcomer's labels.

        Raises:
            ProcessDied: The test failed.
        """
        if self.testing.pid:
            self.testing.wait()
        self.testing.start()
        if self.testing.wait():
            self.testing.check()


def _write_images(
    folder: Path,
    seed: int,
    children: Sequence[Child],
    console: Console,
    is_ready: Callable[[], bool],
) -> None:
    """Write all images, and start the coordinator, and each hospital as soon as its own are there.

    Args:
        folder: Of all hospitals' images.
        seed: Of the images.
        children: The coordinator, then the hospitals.
        console: Where progress is shown.
        is_ready: Whether children start at once.
    """
    with counting(console, "writing the hospitals' images") as tell:
        from polyclinic_demos.cohorts.hospitals import HOSPITALS, NEWCOMERS, write_cohort

        known = {scanner.name: scanner for scanner in (*HOSPITALS, *NEWCOMERS)}
        scanners = [known[site] for site in (*SITES, NEWCOMER)]
        sizes = [tuple(max(mm, VOXEL_MM) for mm in scanner.voxel_mm) for scanner in scanners]

        def start() -> None:
            for child in children:
                has_data = child is children[0] or (folder / child.name / "dataset.json").exists()
                if has_data and not child.pid:
                    child.start()

        def written(done: int, total: int, name: str) -> None:
            tell(done, total, name)
            if is_ready():
                start()

        write_cohort(
            folder,
            sites=len(scanners),
            subjects=SUBJECTS,
            seed=seed,
            scanners=[
                replace(scanner, voxel_mm=(x, y, z))
                for scanner, (x, y, z) in zip(scanners, sizes, strict=True)
            ],
            on_progress=written,
            processes=1,  # the coordinator starts meanwhile
        )
        start()
    console.print(f"{len(scanners)} hospitals in {folder}", markup=False)
