"""Whether a coordinator that is killed again and again ends with the model of one that was left in peace, bit for bit.

    python benchmarks/coordinator_kills.py [KILLS]

Three hospitals hand in contributions. Coordinator and SuperLink are killed together (SIGKILL) at random moments and taken up again; when
a run ends before enough were killed, another one begins.
"""

import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from federation import machine

from polyclinic.cohorts.hospitals import HOSPITALS, write_cohort
from polyclinic.ledger import Ledger
from tests.e2e.federation import Federation, descendants, kill

RESULTS = Path(__file__).with_name("results")
SETTINGS = ("strategy=merging/mean", "strategy.poll_s=0.5", "rounds=6", "deployment.hospitals=3", "deployment.min_hospitals=1")
EARLIEST_S, LATEST_S = 5.0, 25.0  # after a start; it takes some seconds until the coordinator can be dialled


@dataclass
class Outcome:
    """What a run left."""

    model: str
    contributions: int
    fault: str
    kills: int
    seconds: float


def play(folder: Path, sites: list[Path], kills: int, dice: random.Random) -> Outcome:
    """One run, with at most so many kills."""
    began, killed = time.monotonic(), 0
    one = Federation(folder, sites, *SETTINGS)
    try:
        one.coordinator.start()
        for name in one.sites:
            one.join(name)
        while killed < kills and one.coordinator.wait(dice.uniform(EARLIEST_S, LATEST_S)) is None:
            for process in [*(child.pid for child in descendants(one.coordinator.pid)), one.coordinator.pid]:
                kill(process)
            one.coordinator.wait(10.0)
            killed += 1
            one.settings = [text for text in one.settings if text.startswith("deployment")]
            started = (one.runs / "run" / "run.json").exists()
            one.coordinator = one.make_coordinator("--resume", "run") if started else one.coordinator
            one.coordinator.start()
        if one.wait(600.0) != 0:
            raise SystemExit(one.coordinator.log.read_text()[-3000:])
    finally:
        one.close()
    with Ledger.open(one.runs / "run" / "ledger", create=False) as ledger:
        fault = ledger.verify()
        return Outcome(ledger.publications()[-1].digest, len(ledger.entries()), str(fault or ""), killed, time.monotonic() - began)


def main(kills: int) -> None:
    dice = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        coarse = [replace(scanner, voxel_mm=(5.0, 5.0, 6.0)) for scanner in HOSPITALS[:3]]
        sites = write_cohort(folder / "cohort", sites=3, subjects=(2, 1, 1), seed=7, scanners=coarse)
        calm = play(_fresh(folder / "calm"), sites, 0, dice)
        print(f"undisturbed: {calm.model[:12]}, {calm.seconds:.0f} s", flush=True)
        runs: list[Outcome] = []
        while (done := sum(run.kills for run in runs)) < kills:
            runs.append(play(_fresh(folder / f"run-{len(runs)}"), sites, kills - done, dice))
            same = "the same model" if runs[-1].model == calm.model else "ANOTHER MODEL"
            print(
                f"{runs[-1].kills} kills: {same}, {runs[-1].contributions} contributions, verify: {runs[-1].fault or 'clean'}", flush=True
            )
    wrong = [run for run in runs if run.model != calm.model or run.contributions != 3 or run.fault]
    figures = {"machine": machine(), "kills": sum(run.kills for run in runs), "runs": list(map(asdict, runs)), "wrong": len(wrong)}
    (RESULTS / "coordinator_kills.json").write_text(json.dumps({**figures, "undisturbed": asdict(calm)}, indent=1) + "\n")
    print(f"{figures['kills']} kills in {len(runs)} runs: {len(wrong)} ended otherwise than the undisturbed run")


def _fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
