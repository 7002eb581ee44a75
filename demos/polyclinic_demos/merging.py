"""`polyclinic-server demo-merging`: hospitals that contribute whenever they like, with everything that goes wrong in real life.

They start at different times and are not equally fast; one is killed while it trains and returns; the coordinator is killed, taken up
again, and only then the last hospital joins. The report shows what came of it.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from polyclinic.config.compose import load_config
from polyclinic.federation.run_folder import LineReader, RunFolder, write_whole
from polyclinic.federation.run_state import SCORE_NAMES
from polyclinic.system.processes import Child, python_module, stop_all
from polyclinic_demos.cohorts.scanner import Scanner
from polyclinic_demos.refinement import (
    THREADS,
    Demo,
    collect_pictures,
    make_hospital,
    pool,
    running,
    statuses,
    write_hospitals,
)
from polyclinic_server.runs.coordinator import finish
from polyclinic_server.runs.live_table import Board, show

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
NOTES = {
    ARM: "task arithmetic; its factor is chosen by the hospitals on validation images",
    "fedavg": "synchronous rounds from the same base, with as many passes",
    "pooled": "all images in one place, from the same base, with as many passes: the upper bound, impossible in reality",
}
PACES_S = (0.0, 0.15, 0.05, 0.3, 0.1, 0.0)  # how long each hospital rests after a step
APART_S = 5.0  # between two hospitals' starts
PUBLIC = tuple(  # scanners whose images the base is trained on
    Scanner(f"public-{number}", modality, contrast, 0.2, 0.03, (1.0, 1.0, 1.0), 0.4, 0.03, "RAS")
    for number, (modality, contrast) in enumerate(
        (
            ("T1", (0.25, 0.66, 0.97)),
            ("T2", (0.95, 0.6, 0.4)),
            ("PD", (0.3, 0.9, 0.7)),
            ("T1", (0.1, 0.5, 0.8)),
        ),
        start=1,
    )
)
BASE_PASSES, BASE_RATE = 40, 0.004
AWAY_S = 8.0  # how long the killed hospital and the killed coordinator stay away
KILL_AT = 0.3  # of a hospital's training
RESTART_AFTER = 3  # contributions


@dataclass
class Scenario:
    """What happens, and when.

    Args:
        hospitals: In the order in which they start; the last one joins after the coordinator was taken up again.
        coordinator: The first one.
        resumed: The one that takes the run up.
        training_of: How far a hospital's training is, 0 to 1.
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

    def handle(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the run."""
        self.contributions += event["kind"] == "contribution"

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
        if self.coordinator.name not in self._killed_at and self.contributions >= min(
            RESTART_AFTER, len(self.hospitals) - 1
        ):
            self._kill(self.coordinator, "the coordinator is killed")
        self._bring_back(self.coordinator, self._resume)

    def is_disturbed(self, child: Child) -> bool:
        """Whether a child is away on purpose, or not yet there."""
        return not child.pid or (child.name in self._killed_at and child.name not in self._back)

    def _resume(self) -> None:
        self.resumed.start()
        self.hospitals[-1].start()
        self.say(
            f"the coordinator takes the run up from its ledger; {self.hospitals[-1].name} joins only now"
        )

    def _kill(self, child: Child, text: str) -> None:
        self.say(text)
        self._killed_at[child.name] = time.monotonic()
        kill_tree(child.pid)
        child.wait(10.0)

    def _bring_back(self, child: Child, start: Callable[[], None]) -> None:
        killed = self._killed_at.get(child.name)
        if (
            killed is not None
            and child.name not in self._back
            and time.monotonic() - killed >= AWAY_S
        ):
            self._back.add(child.name)
            self.say(f"{child.name} comes back")
            start()


def kill_tree(pid: int) -> None:
    """End a process and everything that it started, as a power cut would."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def run_merging_demo(
    cohort: str, subjects: int, seed: int, folder: Path, overrides: Sequence[str], console: Console
) -> RunFolder:
    """Write the hospitals, let them contribute while things go wrong, compare, and end with the report.

    Args:
        cohort: `brain`: six simulated scanners; `cells`: the three real laboratories in the folder POLYCLINIC_DATA.
        subjects: Training subjects of each brain hospital.
        seed: Of data and training.
        folder: Where everything goes.
        overrides: Passed on to `run`.
        console: Where progress is shown.

    Raises:
        PolyclinicError: Whatever made a part of it fail, with its reason.
    """
    start = time.monotonic()
    if cohort == "cells":
        paths, settings = (
            _write_laboratories(folder / "data", seed, console),
            ["experiment=demo_cells"],
        )
        settings += [
            f"base={_make_base(folder, 'cells', [], ['experiment=demo_cells', 'model.pretrained=true'], console)}"
        ]
        settings += [
            f"strategy.candidates.scale=[{','.join(f'{share / len(paths):.3f}' for share in (0.5, 1.0, 1.5, 2.0))}]"
        ]
    else:
        paths, settings = (
            write_hospitals(folder / "data", 6, subjects, seed, console),
            ["experiment=demo_merging"],
        )
        settings += [f"base={_pretrain(folder, seed, console)}"]
    compare = ",".join(COMPARE)
    settings += [
        "strategy=merging/sum,averaging/fedavg", f"strategy.compare=[{compare}]", "strategy.controls=true", "strategy.poll_s=1.0",
        f"seed={seed}", f"deployment.hospitals={len(paths)}", f"deployment.min_hospitals={len(paths)}",
        f"deployment.runs={folder / 'runs'}", *overrides,
    ]  # fmt: skip
    config = load_config([text for text in settings if not text.startswith("strategy")])
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    demo = Demo(folder, RunFolder(folder / "runs" / name), paths, folder / "state" / name)
    titles = {ARM: "Merging (sum)", "fedavg": "FedAvg", "pooled": "pooled"}
    board = Board(
        titles,
        config.rounds,
        SCORE_NAMES[config.data.task],
        lambda: statuses(demo),
        merging=(ARM,),
        expected=len(paths),
    )
    with show(board, console) as handle:
        _play(demo, settings, handle)
        pool(demo, handle)
    collect_pictures(demo)
    _complete(demo)
    finish(demo.run, console)
    minutes, seconds = divmod(time.monotonic() - start, 60)
    console.print(
        f"The demo took {minutes:.0f} min {seconds:.0f} s. Everything is in {folder}/.",
        markup=False,
    )
    return demo.run


def _play(demo: Demo, settings: Sequence[str], handle: Callable[[Mapping[str, Any]], None]) -> None:
    """The scenario, until the coordinator is done."""
    environment = {**THREADS, "COLUMNS": "200"}
    begin = python_module(
        "polyclinic_server.cli.main", "run", *settings, demo.security, "--name", demo.run.name
    )
    deployment = [text for text in settings if text.startswith("deployment.")]
    go_on = python_module(
        "polyclinic_server.cli.main", "run", *deployment, demo.security, "--resume", demo.run.name
    )
    log = demo.states / "coordinator.log"
    hospitals = [
        make_hospital(demo, path, rest_s=PACES_S[number % len(PACES_S)])
        for number, path in enumerate(demo.sites)
    ]
    scenario = Scenario(
        hospitals, Child("the coordinator", begin, log, environment), Child("the coordinator", go_on, log, environment),
        lambda site: _training_of(demo, site), lambda text: handle({"kind": "note", "text": text}),
    )  # fmt: skip
    events = LineReader(demo.run.path / "events.jsonl", from_end=True)
    with running([scenario.coordinator]):
        try:
            while scenario.leader.wait(0.25) != 0:
                for event in events.read():
                    scenario.handle(event)
                    handle(event)
                scenario.tend()
                for child in (*hospitals, scenario.leader):
                    if not scenario.is_disturbed(child):
                        child.check()
        finally:
            stop_all([*hospitals, scenario.resumed], patience_s=12.0)


def _training_of(demo: Demo, site: str) -> float:
    """How far a hospital's training is: known only because this is one machine."""
    try:
        status = json.loads((demo.states / site / "fine_tuning.json").read_text())
    except (OSError, json.JSONDecodeError):
        return 0.0
    return float(status["step"]) / float(status["steps"]) if status.get("steps") else 0.0


def _pretrain(folder: Path, seed: int, console: Console) -> Path:
    """The brain hospitals' base: trained on the images of scanners that take no part, as public data would be."""
    from polyclinic_demos.cohorts.hospitals import write_cohort

    with console.status("writing public images for the base"):
        public = write_cohort(
            folder / "data" / f"public-seed-{seed}",
            sites=len(PUBLIC),
            subjects=(2, 1, 0),
            seed=seed + 1000,
            scanners=PUBLIC,
        )
    return _make_base(
        folder,
        f"brain-seed-{seed}",
        public,
        [
            "experiment=demo_merging",
            f"seed={seed}",
            f"rounds={BASE_PASSES}",
            f"training.learning_rate={BASE_RATE}",
        ],
        console,
    )


def _make_base(
    folder: Path, name: str, data: Sequence[Path], settings: Sequence[str], console: Console
) -> Path:
    """The file that everybody starts from; made once."""
    out = (folder / "data" / f"base-{name}.safetensors").resolve()
    if out.exists():
        return out
    command = python_module(
        "polyclinic_demos.pretraining", str(out), *map(str, data), "--", *settings
    )
    child = Child("the pretraining", command, folder / "data" / "pretraining.log")
    with console.status("making the base that everybody starts from"), running([child]):
        while child.wait(0.5) is None:
            continue
        if child.status():
            child.check()
    return out


def _write_laboratories(folder: Path, seed: int, console: Console) -> list[Path]:
    from polyclinic_demos.cohorts.laboratories import write_laboratories

    with console.status("copying the laboratories' images"):
        return write_laboratories(folder / f"cells-seed-{seed}", seed=seed)


def _complete(demo: Demo) -> None:
    """Notes for the report."""
    known = {arm["name"]: arm for arm in demo.run.describe()["arms"]}
    known.setdefault("pooled", {"name": "pooled", "title": "pooled"})
    order = ["local", *(name for name in known if name not in ("local", "pooled")), "pooled"]
    arms = [
        {**known[name], **({"note": NOTES[name]} if name in NOTES else {})}
        for name in order
        if name in known
    ]
    demo.run.update(arms=arms)
    write_whole(demo.folder / "latest.txt", f"{demo.run.path}\n")
