"""`simulate`: a whole federation in this process.

The coordinator's part is the one that `polyclinic-server run` executes, the hospitals' part the
one that `polyclinic-client join` executes; between them is a grid in memory. Hospitals compute one
after another. Waiting takes no time: simulated time passes at once.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Message
from flwr.serverapp import Grid

from polyclinic.config.schemas import Config, Setting
from polyclinic.errors import PolyclinicError, UnknownName
from polyclinic.federation.events import Event
from polyclinic.federation.jobs import follow_run
from polyclinic.federation.run_folder import RunFolder
from polyclinic.imaging.datasets import SiteDataset
from polyclinic.simulation.changes import Change, Schedule, away_at_start, check_changes
from polyclinic.simulation.grid import Answer, MemoryGrid, MemoryNode
from polyclinic.simulation.hospital import Memory, SimulatedHospital, own_randomness
from polyclinic.simulation.hospitals import Given, name_hospitals, write_dataset
from polyclinic.simulation.progress import ProgressBar
from polyclinic.simulation.result import SimulationResult
from polyclinic.simulation.setup import concluded, is_finished, prepare_run
from polyclinic.simulation.sides import COORDINATOR, HOSPITAL, HospitalInProcess, load_side
from polyclinic.system.clock import SkippingClock, use_clock

GIB = 2**30
FREE_SHARE = 0.5  # of the machine's free memory that prepared cases may take
MakeHospital = Callable[[str, Path, Path, str], HospitalInProcess]  # name, data, state, mode
MINIMUM = 2  # hospitals that a round needs, where there are so many


def simulate(
    hospitals: Given,
    *settings: str,
    describe: Collection[str] = (),
    changes: Sequence[Change] = (),
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    threads: int = 1,
    memory_gb: float | None = None,
    **more_settings: Setting | None,
) -> SimulationResult:
    """Run a federation in this process, with any strategies, to its final figures.

    Example:
        ```python
        import polyclinic

        hospitals = {"north": "data/north", "south": "data/south"}
        result = polyclinic.simulate(
            hospitals, strategy="averaging/local,averaging/fedavg", model="unet", rounds=3
        )
        print(result.table())
        result.report("report.html")
        ```

    The same seed, settings and data give the same numbers; those of averaging and of merging by
    the mean are, bit for bit, those of a federation of processes.

    Args:
        hospitals: Folders with dataset.json, as a list, by name, or one folder that holds them all;
            or `SiteDataset` objects. See docs/reference/dataset.md.
        settings: "SETTING=VALUE", as `polyclinic-server run` takes them.
        describe: Hospitals that only describe their images, and neither train nor need labels. The
            strategies that make models from descriptions stay open until each of them has its own,
            unless `strategy.stay.newcomers` or `strategy.stay.seconds` is given.
        changes: Hospitals that join, leave or withdraw in the middle.
        folder: Where the run goes; if not given, a temporary folder that lives as long as the
            result.
        resume: Whether to go on with the run of the same settings that is in `folder`. One that is
            finished is not run again.
        progress: Whether to show a progress bar on standard error; None: on a terminal and in a
            notebook.
        threads: Number of threads with which a hospital computes. A real one uses 1; other numbers
            may change the last bits.
        memory_gb: Memory for all hospitals' prepared images, in GiB; None: half of what is free.
            What does not fit is read again when it is needed, and the figures are the same.
        more_settings: Settings without a dot in their name, such as `rounds=3` or `seed=1`.
            `strategy="a,b"` runs several strategies one after another, with the same hospitals.

    Returns:
        The scores, the report and the models.

    Raises:
        ConfigError: A setting is wrong, or hospitals are named badly.
        SideMissing: The coordinator's or the hospital's side of polyclinic is not installed.
        RunError: The run cannot go on, say because too few hospitals can do what is asked. Notes
            on the error tell what each hospital could not do, and where the events are. One
            hospital's fault ends only that hospital's part.
    """
    named = name_hospitals(hospitals)
    coordinate, make_hospital = load_side(COORDINATOR), load_side(HOSPITAL)
    describe = [describe] if isinstance(describe, str) else describe
    for site in describe:
        if site not in named:
            raise UnknownName("hospital", site, sorted(named))
    check_changes(changes, named)
    training = [site for site in named if site not in {*describe, *away_at_start(changes)}]
    asked = [
        f"deployment.hospitals={len(training)}",
        f"deployment.min_hospitals={max(1, min(MINIMUM, len(training)))}",
        *settings,
        *(f"{name}={_as_text(value)}" for name, value in more_settings.items()),
    ]
    place = Path(tempfile.mkdtemp(prefix="polyclinic-") if folder is None else folder).resolve()
    memory = Memory(_free_bytes() * FREE_SHARE if memory_gb is None else memory_gb * GIB)
    federation = _Federation(place, threads, memory, ProgressBar(progress), folder is None)
    temporary = place if folder is None else None
    try:
        run, configs = prepare_run(place, asked, resume=resume, describing=len(set(describe)))
        for site, data in named.items():
            mode = "describe" if site in describe else "train"
            federation.add(site, data, mode, configs[0].seed, make_hospital)
        if not is_finished(run):
            federation.run(run, configs, coordinate, changes)
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return SimulationResult(run.path, federation.states, federation.faults, temporary)


@dataclass
class _Federation:
    """The hospitals of a simulation, and its run.

    Attributes:
        folder: Where everything lies.
        threads: Number of threads of a hospital.
        memory: What hospitals' prepared images may take.
        bar: Told who computes.
        temporary: Whether `folder` is removed after an error.
        faults: What hospitals could not do.
        states: Folder of each hospital.
        nodes: Each hospital at the grid.
    """

    folder: Path
    threads: int
    memory: Memory
    bar: ProgressBar
    temporary: bool = False
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    states: dict[str, Path] = field(default_factory=dict)
    nodes: dict[str, MemoryNode] = field(default_factory=dict)
    _opened: list[HospitalInProcess] = field(default_factory=list)

    def add(
        self, site: str, data: Path | SiteDataset, mode: str, seed: int, make: MakeHospital
    ) -> None:
        """Make a hospital's node; nothing of its data is read."""
        state = self.states[site] = self.folder / "hospitals" / site
        if isinstance(data, SiteDataset):
            data = write_dataset(data, self.folder / "data" / site)
        worker = make(site, data.resolve(), state, mode)
        self._opened.append(worker)
        hospital = SimulatedHospital(site, worker, state, seed, self.threads, self._note)
        self.nodes[site] = MemoryNode(len(self.nodes) + 1, self._answers(hospital), name=site)

    def _answers(self, hospital: SimulatedHospital) -> Answer:
        def answer(message: Message) -> Message:
            self.bar.note_work(hospital.site, message.metadata.message_type)
            reply = hospital.answer(message)
            self.memory.note_use(hospital.site, hospital.hospital)
            return reply

        return answer

    def _note(self, site: str, error: Exception) -> None:
        self.faults.setdefault(site, []).append(error)

    def run(
        self,
        run: RunFolder,
        configs: Sequence[Config],
        coordinate: Callable[[Grid, RunFolder], None],
        changes: Sequence[Change],
    ) -> None:
        """Run every strategy.

        Raises:
            PolyclinicError: The run cannot go on; a note tells what each hospital could not do.
        """
        clock = SkippingClock()
        schedule = Schedule(changes, self.nodes, _ledger_of(configs, run))
        schedule.replay(run.events())

        def listen(event: Event) -> None:
            clock.note_progress()
            self.bar.handle(event)
            schedule.handle(event.kind, event.arm)

        self.bar.follow(follow_run(configs))
        run.listeners.append(listen)
        with (
            concluded(run),
            run.logged("flwr", "polyclinic"),
            own_randomness(configs[0].seed, "coordinator"),
            use_clock(clock),
            self.bar,
        ):
            try:
                coordinate(MemoryGrid(self.nodes.values(), at_once=1), run)
            except PolyclinicError as error:
                self._explain(error, run)
                raise
            finally:
                for hospital in self._opened:
                    hospital.close()

    def _explain(self, error: PolyclinicError, run: RunFolder) -> None:
        """Add what hospitals could not do, each thing once, and where the events are.

        The first fault becomes the error's cause: a traceback shows the line that failed.
        """
        for site, faults in sorted(self.faults.items()):
            for text in dict.fromkeys(map(_tell, faults)):
                error.add_note(f"{site}: {text}")
        first = next((fault for faults in self.faults.values() for fault in faults), None)
        if error.__cause__ is None:
            error.__cause__ = first
        if self.temporary:
            error.add_note(
                "The folder of this run was temporary. simulate(..., folder=FOLDER) keeps its "
                "events.jsonl, and the hospitals' logs."
            )
        else:
            error.add_note(f"Events: {run.path / 'events.jsonl'}")


def _tell(fault: Exception) -> str:
    """Tell an error and its cause."""
    cause = fault.__cause__
    because = f" Cause: {type(cause).__name__}: {cause}" if cause else ""
    return f"{type(fault).__name__}: {fault}{because}"


def _free_bytes() -> float:
    """Memory that the machine has left."""
    import psutil  # both sides bring it

    return float(psutil.virtual_memory().available)


def _as_text(value: Setting | None) -> str:
    """Write a value as Hydra reads it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"[{','.join(map(_as_text, value))}]" if isinstance(value, list) else str(value)


def _ledger_of(configs: Sequence[Config], run: RunFolder) -> Path:
    """Where contributions are kept: in the run, unless a strategy names another place."""
    for config in configs:
        for part in (config.strategy, config.strategy.get("contributions") or {}):
            if part.get("ledger"):
                return Path(str(part["ledger"]))
    return run.path / "ledger"
