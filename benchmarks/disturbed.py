"""A merging federation that may be disturbed, and its results.

Three hospitals contribute twice each; another one joins when they are done.
"""

import json
import shutil
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from relay import Relay

from polyclinic.learning.state_dict import load_state, state_digest
from polyclinic.store.contribution import read_contribution
from polyclinic.store.ledger import Ledger
from polyclinic.system.durable import write_atomically
from polyclinic.system.processes import Child

sys.path.append(str(Path(__file__).resolve().parents[1]))  # run as a script

from polyclinic_demos.federation import family_of
from tests.e2e.federation import Federation
from tests.processes import run_cli

VERSIONS = 2  # number of versions of each hospital's data set, and so of its contributions
# number of hospitals from the start, and with the last one, whose contribution ends the run
EARLY, ALL = (3, 4)
SETTINGS = (
    "strategy=merging/mean", "strategy.poll_s=0.5", "rounds=12", "deployment.min_hospitals=1",
    f"deployment.hospitals={EARLY}", f"strategy.end.contributions={ALL}", "deployment.grace_s=10",
)  # fmt: skip


class NotEnded(Exception):
    """A run did not reach its end; the message says why."""


@dataclass
class Outcome:
    """Results of a run."""

    model: str  # the published model's digest
    # for each hospital, in the order of arrival: digests of tensors, cases and scores
    contributions: dict[str, list[str]]
    active: dict[str, str]
    acknowledged: int  # by the hospitals' records
    lost: int  # acknowledged, but not in the ledger
    fault: str  # found by `ledger verify`
    seconds: float
    disturbed: int  # how often
    notes: dict[str, float] = field(default_factory=dict)

    def differs(self, calm: "Outcome") -> list[str]:
        """List the differences from the undisturbed run."""
        found = [
            name
            for name in ("model", "contributions", "active")
            if getattr(self, name) != getattr(calm, name)
        ]
        return found + ["lost"] * bool(self.lost) + ["verify"] * bool(self.fault)


class Patients:
    """A hospital's data set that grows by one case after each acknowledged contribution."""

    def __init__(self, original: Path, folder: Path, state: Path, versions: int) -> None:
        self.folder, self._state, self._versions = folder, state, versions
        shutil.copytree(original, folder)
        self._full = json.loads((folder / "dataset.json").read_text())
        self._version = 0
        self.tend()

    def acknowledged(self) -> list[str]:
        """Return the digests that the coordinator has acknowledged, by the hospital's records."""
        notes = {  # a file's name has the contribution's digest, and whose word it is
            path.stem.partition("-")[0]: json.loads(path.read_text())
            for path in (self._state / "settled").glob("*.json")
        }
        return [digest for digest, note in notes.items() if note["accepted"]]

    def done(self) -> bool:
        """Tell whether everything has been handed in."""
        return len(self.acknowledged()) >= self._versions

    def tend(self) -> None:
        """Add the next patient, if it is time."""
        if self._version < self._versions and len(self.acknowledged()) >= self._version:
            self._version += 1
            content = {**self._full, "training": self._full["training"][: self._version]}
            write_atomically(self.folder / "dataset.json", json.dumps(content))


class Disturbed(Federation):
    """A federation with growing hospitals, whose links may pass through relays."""

    def __init__(self, folder: Path, originals: list[Path]) -> None:
        folder.mkdir()
        states = folder / "state"
        self.patients: dict[str, Patients] = {}
        for number, path in enumerate(originals):
            versions = VERSIONS if number < EARLY else 1
            self.patients[path.name] = Patients(
                path, folder / "data" / path.name, states / path.name, versions
            )
        super().__init__(
            folder, [patients.folder for patients in self.patients.values()], *SETTINGS
        )
        self.relays: dict[str, Relay] = {}
        self.early, self.late = list(self.sites)[:EARLY], list(self.sites)[EARLY:]

    def join(self, name: str, *options: str) -> Child:
        """Join as the e2e tests do, through a relay if there is one."""
        relay = self.relays.get(name)
        return super().join(
            name, "--wait", "600", *(("--server", relay.address) if relay else ()), *options
        )

    def tend(self) -> None:
        """Do what happens at the hospitals without a fault."""
        for patients in self.patients.values():
            patients.tend()
        for name in self.late:
            if name not in self.hospitals and all(
                self.patients[early].done() for early in self.early
            ):
                self.join(name)
        for name, child in self.hospitals.items():
            if child.status() is not None:
                raise NotEnded(
                    f"{name}'s client ended by itself with status {child.status()}: "
                    f"{child.last_words()}"
                )

    def kill_hospital(self, name: str) -> None:
        """Kill all processes of a hospital, as by a power cut, and start it again."""
        self.kill_all(name)
        self.join(name)

    def kill_coordinator(self) -> None:
        """Kill the coordinator, with all its processes, and resume the run."""
        children = family_of(self.coordinator.pid)
        self.kill_all()
        _, alive = psutil.wait_procs(children, timeout=20.0)
        if alive:
            raise NotEnded(f"{[process.cmdline() for process in alive]} outlived the coordinator")
        self.settings = [text for text in self.settings if text.startswith("deployment")]
        if (self.runs / "run" / "run.json").exists():
            self.coordinator = self.make_coordinator("--resume", "run")
        self.coordinator.start()

    def can_be_dialled(self) -> bool:
        """Tell whether the coordinator listens."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True

    def outcome(self, seconds: float, disturbed: int, notes: dict[str, float]) -> Outcome:
        """Return what the ledger holds, and whether it is what the hospitals were told."""
        folder = self.runs / "run" / "ledger"
        verified = run_cli(
            "polyclinic_server.cli.main", "ledger", "verify", "--ledger", str(folder)
        )
        with Ledger.open(folder, create=False) as ledger:
            entries = sorted(ledger.entries(), key=lambda entry: entry.sequence)
            contents = {entry.digest: content_digest(entry.path) for entry in entries}
            known = {
                digest for patients in self.patients.values() for digest in patients.acknowledged()
            }
            return Outcome(
                ledger.publications()[-1].digest,
                {
                    site: [contents[entry.digest] for entry in entries if entry.site == site]
                    for site in self.sites
                },
                {
                    entry.site: contents[entry.digest]
                    for entry in entries
                    if entry.state == "active"
                },
                len(known),
                len(known - contents.keys()),
                "" if verified.returncode == 0 else verified.stdout + verified.stderr,
                seconds,
                disturbed,
                notes,
            )


def content_digest(path: Path) -> str:
    """Describe a contribution without the time at which it was made."""
    contribution, state = read_contribution(path), load_state(path)[0]
    metrics = json.dumps(dict(contribution.metrics), sort_keys=True)
    return f"{state_digest(state)[:24]} {contribution.num_examples} {metrics}"
