"""`polyclinic-server demo-full`: the whole story of a federation on one machine.

Hospitals train alone, by averaging, and by contributing whenever they are done. The coordinator
merges at every arrival, and makes a refined model for each hospital. Then hospitals join that only
describe their images, and one of the first leaves.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from polyclinic.federation.events import Event
from polyclinic.federation.run_folder import RunFolder
from polyclinic.store.ledger import Ledger
from polyclinic.system.processes import Child, stop_all
from polyclinic_demos.cohorts.hospitals import HOSPITALS, NEWCOMERS, write_cohort
from polyclinic_demos.comparison import (
    TITLES,
    check_settings,
    comparing_settings,
    complete,
    describing,
    live_state,
)
from polyclinic_demos.federation import (
    PATIENCE_S,
    Handle,
    LocalFederation,
    new_federation,
    prepare_folder,
    running,
)
from polyclinic_demos.progress import counting
from polyclinic_server.runs.live_table import LiveTable, show
from polyclinic_strategies.refinement.events import Delivered

BASE_SHARE = 3 / 8  # of the rounds: they make the base that is fine-tuned


def run_full_demo(
    sites: int,
    rounds: int | None,
    subjects: int,
    seed: int,
    folder: Path,
    overrides: Sequence[str],
    console: Console,
) -> RunFolder:
    """Run every strategy and the pooled bound, let hospitals come and go, and end with the report.

    Args:
        sites: Number of hospitals that take part.
        rounds: Rounds of every strategy; None: as the experiment says.
        subjects: Number of training subjects of each hospital.
        seed: Seed of data and training.
        folder: Where everything goes.
        overrides: Further settings of `run`.
        console: Where progress is shown.

    Raises:
        PolyclinicError: A part of it failed, with its reason.
    """
    started = time.monotonic()
    settings = [
        *comparing_settings("demo", sites, seed, len(NEWCOMERS)),
        *([f"rounds={rounds}"] if rounds else []),
        "strategy.stay.departures=1",
        f"privacy.release.min_subjects={min(3, subjects)}",
        *overrides,
    ]
    config = check_settings(settings, overrides)
    settings.append(f"strategy.base_rounds={int(config.rounds * BASE_SHARE)}")
    folder = prepare_folder(folder)
    with counting(console, "writing the hospitals' images") as tell:
        paths = write_cohort(
            folder / "data" / f"{subjects}-subjects-seed-{seed}",
            sites=sites + len(NEWCOMERS),
            subjects=(subjects, 1, 2),
            seed=seed,
            scanners=[*HOSPITALS[:sites], *NEWCOMERS],
            on_progress=tell,
        )
    console.print(f"{len(paths)} hospitals in {paths[0].parent}", markup=False)
    demo = new_federation(folder, paths[:sites], paths[sites:])
    state = live_state(config, sites, list(TITLES))
    with show(LiveTable(state, demo.statuses), console) as handle:
        _federate(demo, settings, handle)
        demo.train_pooled(handle)
        data = map(str, demo.newcomers)
        module = "polyclinic_demos.newcomers"
        demo.run_module("the test of newcomers", module, str(demo.states), *data, handle=handle)
    complete(demo, list(TITLES))
    demo.conclude(console, started)
    return demo.run


def _federate(demo: LocalFederation, settings: Sequence[str], handle: Handle) -> None:
    """Run coordinator and hospitals until the coordinator is done."""
    coordinator = demo.coordinator(*settings, "--name", demo.run.name)
    hospitals = [demo.hospital(path) for path in demo.sites]
    later = ComingAndGoing(demo, [describing(demo, path) for path in demo.newcomers])

    def take(event: Event) -> None:
        handle(event)
        later.handle(event)

    with running([coordinator, *hospitals]):
        try:
            demo.follow(coordinator, hospitals, take)
        finally:
            stop_all(later.children, PATIENCE_S)


class ComingAndGoing:
    """Newcomers join once everybody has a refined model, one after another; then a hospital leaves.

    Args:
        demo: The demo; the second of its hospitals leaves.
        children: A client for each newcomer.
    """

    def __init__(self, demo: LocalFederation, children: Sequence[Child]) -> None:
        self._demo = demo
        self.children = children
        self._waiting = list(children)
        self._served: set[str] = set()

    def handle(self, event: Event) -> None:
        """Let the next one come, or go, whenever a hospital has got its first model."""
        if not isinstance(event, Delivered) or event.site in self._served:
            return
        self._served.add(event.site)
        if len(self._served) < len(self._demo.sites):
            return
        if self._waiting:
            self._waiting.pop(0).start()
        else:
            leaver = self._demo.sites[1].name
            with Ledger.open(self._demo.run.path / "ledger", create=False) as ledger:
                ledger.withdraw(leaver, "leaves the federation")
