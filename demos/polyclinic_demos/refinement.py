"""`polyclinic-server demo`: a whole federation on one machine, every part of it a process of its own.

Hospitals train alone, by averaging, and by contributing whenever they are done; the coordinator merges at every arrival and refines. Then
hospitals join that only describe their images, and one of the first leaves.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError, RunError
from polyclinic.federation.run_folder import LineReader, RunFolder, write_whole
from polyclinic.federation.run_state import SCORE_NAMES
from polyclinic.store.ledger import Ledger
from polyclinic.system.processes import Child, free_port, python_module, stop_all
from polyclinic_demos.cohorts.hospitals import NEWCOMERS
from polyclinic_demos.cohorts.scanner import Scanner
from polyclinic_demos.local_pki import kit_for, rehearse
from polyclinic_demos.paced_training import REST
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.runs.coordinator import finish
from polyclinic_server.runs.live_table import Board, show

STRATEGIES = ("averaging/local", "averaging/fedavg", "refinement")
TITLES = {
    "local": "local only",
    "fedavg": "FedAvg",
    "centre": "Merging (mean)",
    "refinement": "Refinement",
    "pooled": "pooled",
}
NOTES = {
    "local": "every hospital alone, with the same steps",
    "fedavg": "synchronous rounds of averaging",
    "centre": "the mean of all contributions, published at every arrival: what everybody would get alike",
    "refinement": "a model for every hospital, from what its images are like",
    "pooled": "all images in one place: the upper bound, impossible in reality",
}
BASE_SHARE = 3 / 8  # of the rounds: they make the base that is fine-tuned
THREADS = {"OMP_NUM_THREADS": "1"}  # of each hospital: they share the machine's cores


@dataclass(frozen=True)
class Demo:
    """What one demo is made of."""

    folder: Path
    run: RunFolder
    sites: Sequence[Path]
    states: Path
    newcomers: Sequence[Path] = ()  # who joins later

    @cached_property
    def authority(self) -> Authority:
        """TLS and keys, as in earnest."""
        return rehearse(self.states / "security", free_port())

    @property
    def security(self) -> str:
        """The coordinator's setting."""
        return f"deployment.security={self.authority.folder}"


def run_demo(
    sites: int,
    rounds: int | None,
    subjects: int,
    seed: int,
    folder: Path,
    overrides: Sequence[str],
    console: Console,
) -> RunFolder:
    """Write the hospitals, run every strategy and the pooled bound, let others come and one go, and end with the report.

    Raises:
        PolyclinicError: Whatever made a part of it fail, with its reason.
    """
    start = time.monotonic()
    settings = [
        "experiment=demo",
        f"seed={seed}",
        f"deployment.hospitals={sites}",
        f"deployment.min_hospitals={min(sites, 2)}",
    ]
    settings += [f"rounds={rounds}"] if rounds else []
    settings += [
        f"strategy={','.join(STRATEGIES)}",
        "strategy.contributions.poll_s=1.0",
        f"strategy.stay.newcomers={len(NEWCOMERS)}",
    ]
    settings += [
        "strategy.stay.departures=1",
        f"privacy.release.min_subjects={min(3, subjects)}",
        f"deployment.runs={folder / 'runs'}",
    ]
    settings += overrides
    if any(text.startswith("strategy=") for text in overrides):
        raise ConfigError(
            "The demo compares its own strategies: use `polyclinic-server run` to choose others."
        )
    config = load_config([text for text in settings if not text.startswith("strategy")])
    settings += [f"strategy.base_rounds={int(config.rounds * BASE_SHARE)}"]
    paths = write_hospitals(folder / "data", sites, subjects, seed, console, NEWCOMERS)
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    demo = Demo(
        folder,
        RunFolder(folder / "runs" / name),
        paths[:sites],
        folder / "state" / name,
        paths[sites:],
    )
    titles = {arm: title for arm, title in TITLES.items() if arm != "centre"}
    board = Board(
        titles,
        config.rounds,
        SCORE_NAMES[config.data.task],
        lambda: statuses(demo),
        merging=("refinement",),
        expected=sites,
    )
    with show(board, console) as handle:
        _federate(demo, settings, handle)
        pool(demo, handle)
        _run_to_end(
            demo,
            "the test of newcomers",
            ["polyclinic_demos.newcomers", str(demo.run.path), str(demo.states)],
            demo.newcomers,
            handle,
        )
    _complete(demo)
    finish(demo.run, console)
    minutes, seconds = divmod(time.monotonic() - start, 60)
    console.print(
        f"The demo took {minutes:.0f} min {seconds:.0f} s. Everything is in {folder}/.",
        markup=False,
    )
    return demo.run


def write_hospitals(
    folder: Path,
    sites: int,
    subjects: int,
    seed: int,
    console: Console,
    newcomers: Sequence[Scanner] = (),
) -> list[Path]:
    """The data sets, as real hospitals would have them; those of newcomers come last."""
    from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort

    columns = (
        TextColumn("writing the hospitals' images"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        paths = write_cohort(
            folder / f"{subjects}-subjects-seed-{seed}",
            sites=sites + len(newcomers), subjects=(subjects, 1, 2), seed=seed, scanners=[*HOSPITALS[:sites], *newcomers],
            on_progress=lambda done, total, text: progress.update(task, completed=done, total=total, description=text),
        )  # fmt: skip
    console.print(f"{len(paths)} hospitals in {paths[0].parent}", markup=False)
    return paths


def _federate(
    demo: Demo, settings: Sequence[str], handle: Callable[[Mapping[str, Any]], None]
) -> None:
    """Coordinator and hospitals, until the coordinator is done."""
    command = python_module(
        "polyclinic_server.cli.main", "run", *settings, demo.security, "--name", demo.run.name
    )
    coordinator = Child(
        "the coordinator", command, demo.states / "coordinator.log", {**THREADS, "COLUMNS": "200"}
    )
    hospitals = [make_hospital(demo, path) for path in demo.sites]
    visitors = Visitors(
        demo,
        [make_hospital(demo, _unlabelled(demo, path), "--describe") for path in demo.newcomers],
    )

    def take(event: Mapping[str, Any]) -> None:
        handle(event)
        visitors.handle(event)

    with running([coordinator, *hospitals]):
        try:
            _follow(demo, coordinator, hospitals, take)
        finally:
            stop_all(visitors.children, patience_s=12.0)


class Visitors:
    """Newcomers, one after another once everybody has a refined model; when all have theirs, one of the first hospitals leaves.

    Args:
        demo: The demo.
        children: A client for each newcomer.
    """

    def __init__(self, demo: Demo, children: Sequence[Child]) -> None:
        self._demo = demo
        self.children = children
        self._waiting = list(children)
        self._served: set[str] = set()

    def handle(self, event: Mapping[str, Any]) -> None:
        """Whenever somebody has its model, the next one comes."""
        if event["kind"] != "delivered" or event["site"] in self._served:
            return
        self._served.add(str(event["site"]))
        if len(self._served) < len(self._demo.sites):
            return
        if self._waiting:
            self._waiting.pop(0).start()
        else:
            leaver = self._demo.sites[1].name
            with Ledger.open(self._demo.run.path / "ledger", create=False) as ledger:
                ledger.withdraw(leaver, "leaves the federation")


def _unlabelled(demo: Demo, site: Path) -> Path:
    """What a newcomer has: images."""
    from polyclinic_demos.cohorts.hospitals import write_unlabelled

    return write_unlabelled(site, demo.folder / "data" / "newcomers" / site.name)


def make_hospital(demo: Demo, path: Path, *options: str, rest_s: float = 0.0) -> Child:
    """Make a hospital's client, which rests after training steps; all share the machine's cores."""
    command = python_module(
        "polyclinic_demos.paced_client", "join", "--kit", str(kit_for(demo.authority, path.name)), "--data", str(path),
        "--state", str(demo.states / path.name), "--wait", "120", *options,
    )  # fmt: skip
    slots = {"POLYCLINIC_SLOTS": f"{os.cpu_count() or 1}:{demo.states / 'slots'}"}
    return Child(
        path.name,
        command,
        demo.states / path.name / "client.log",
        {**THREADS, **slots, REST: str(rest_s)},
    )


def pool(demo: Demo, handle: Callable[[Mapping[str, Any]], None]) -> None:
    """The upper bound, with all cores."""
    _run_to_end(
        demo,
        "the pooled training",
        ["polyclinic_demos.pooled", str(demo.run.path)],
        demo.sites,
        handle,
    )


def _run_to_end(
    demo: Demo,
    what: str,
    command: Sequence[str],
    data: Sequence[Path],
    handle: Callable[[Mapping[str, Any]], None],
) -> None:
    """A process of the demo's own, with all cores."""
    child = Child(what, python_module(*command, *map(str, data)), demo.states / f"{command[0]}.log")
    with running([child]):
        _follow(demo, child, [], handle)


def _follow(
    demo: Demo, leader: Child, others: Sequence[Child], handle: Callable[[Mapping[str, Any]], None]
) -> None:
    """Pass events on until the leader ends well; whatever dies before makes the demo fail with its reason."""
    events = LineReader(demo.run.path / "events.jsonl", from_end=True)
    while True:
        status = leader.wait(0.25)
        for event in events.read():
            handle(event)
        if status == 0:
            return
        leader.check()
        for child in others:
            child.check()


@contextmanager
def running(children: Sequence[Child]) -> Iterator[None]:
    """Children that are ended together, whatever happens."""
    try:
        for child in children:
            child.start()
        yield
    finally:
        stop_all(children, patience_s=12.0)


def statuses(demo: Demo) -> dict[str, dict[str, Any]]:
    """What each hospital says of itself: known only because this is one machine."""
    found = {}
    for path in demo.states.glob("*/status.json"):
        try:
            found[path.parent.name] = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError):
            continue
    return found


def _complete(demo: Demo) -> None:
    """Bring the hospitals' pictures and the pooled bound into the run."""
    collect_pictures(demo)
    refinement = demo.run.describe().get("refinement", {})
    demo.run.update(refinement={**refinement, "newcomers": [path.name for path in demo.newcomers]})
    arms = [
        {"name": name, "title": title, **({"note": NOTES[name]} if name in NOTES else {})}
        for name, title in TITLES.items()
    ]
    demo.run.update(arms=arms)
    write_whole(demo.folder / "latest.txt", f"{demo.run.path}\n")


def collect_pictures(demo: Demo) -> None:
    """Bring the hospitals' pictures into the run: in a demo the hospitals are ours.

    Raises:
        RunError: The run left no figures.
    """
    if not (demo.run.path / "metrics.jsonl").exists():
        raise RunError(f"{demo.run.path}: the run left no figures.")
    for site in demo.sites:
        target = demo.run.path / "pictures" / site.name
        target.mkdir(parents=True, exist_ok=True)
        for picture in (demo.states / site.name / "runs" / demo.run.name).glob("*/pictures/*.png"):
            shutil.copyfile(picture, target / picture.name)
