"""A federation that is killed, cut off and slowed down, compared with an undisturbed one.

    python benchmarks/faults.py [--kills 20] [--cut 60] [--only NAME ...]
    python benchmarks/faults.py --short

Three hospitals with TLS and keys contribute twice each, as a patient is added to their data sets,
and a fourth ends the run. Clients, coordinator and network are disturbed by one kind of fault after
another. The ledger and the hospitals' records are then compared bit for bit with those of the
undisturbed run. Everything runs in a network namespace of its own where that is possible, so that
real packets can be dropped without touching the machine's network. Where it is not possible, those
faults are left out, and the result says so.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from disturbed import ALL, VERSIONS, Disturbed, NotEnded, Outcome
from measuring import machine
from own_network import dropping, enter_own_network, is_own
from relay import Relay

from polyclinic_client.site.status import FINE_TUNING
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort

RESULTS = Path(__file__).with_name("results") / "faults.json"
# interval between two faults, as shares of the undisturbed run's time
HOSPITAL_KILLS, COORDINATOR_KILLS = ((0.02, 0.18), (0.0, 0.3))
# of the coordinator: counted from its start, the others from when hospitals can reach it
EARLY_KILLS = 0.25
SHORT = ("hospital_kills", "coordinator_kills")
LOSS = 0.3
LINK_BITS_PER_S, LATENCY_S = 1e6, 0.05
LIMIT_S = 1800.0  # longest time of one run


class Fault:
    """A fault that happens to a run; this one does nothing."""

    name = "undisturbed"
    happened = 0

    @contextmanager
    def around(self, one: Disturbed) -> Iterator[None]:  # noqa: ARG002
        """Set up what must hold before anybody dials, and undo it at the end."""
        yield

    def tend(self, one: Disturbed) -> None:
        """Act if it is time; called several times a second."""

    def notes(self) -> dict[str, float]:
        """Return further figures."""
        return {}


class HospitalKills(Fault):
    """kill -9 of all processes of a hospital, which is started again."""

    name, between = "kill -9 of a hospital", HOSPITAL_KILLS

    def __init__(self, kills: int, dice: random.Random, calm_s: float) -> None:
        self._kills, self._dice, self._calm_s, self.happened = kills, dice, calm_s, 0
        self._next: float | None = None

    def tend(self, one: Disturbed) -> None:
        """Strike when it is time."""
        if self._next is None and self.begins(one):
            self._next = time.monotonic() + self._calm_s * self._dice.uniform(*self.between)
        elif (
            self._next is not None
            and self.happened < self._kills
            and time.monotonic() >= self._next
            and one.coordinator.status() is None
        ):
            self.strike(one)
            self.happened += 1
            self._next = None

    def begins(self, one: Disturbed) -> bool:  # noqa: ARG002
        """Tell whether the waiting time for the next strike begins."""
        return True

    def strike(self, one: Disturbed) -> None:
        """Strike once."""
        one.kill_hospital(self._dice.choice(sorted(one.hospitals)))


class CoordinatorKills(HospitalKills):
    """kill -9 of the coordinator, and --resume."""

    name, between = "kill -9 of the coordinator", COORDINATOR_KILLS
    _early = False

    def begins(self, one: Disturbed) -> bool:
        """Wait until hospitals can reach the coordinator, three times of four; else begin now."""
        return self._early or one.can_be_dialled()

    def strike(self, one: Disturbed) -> None:
        """Strike once."""
        one.kill_coordinator()
        self._early = self._dice.random() < EARLY_KILLS


class CutOff(Fault):
    """Cut of a hospital's connection while it trains, so that it cannot hand in its result."""

    def __init__(self, how: str, seconds: float) -> None:
        self._how, self._seconds = how, seconds
        self.name = f"{seconds:.0f} s cut of a hospital, {how}"
        self._since: float | None = None
        self._stack = ExitStack()
        self._mended = self._waited = 0.0

    @contextmanager
    def around(self, one: Disturbed) -> Iterator[None]:
        """Set up a relay for the first hospital."""
        self._victim = one.early[0]
        with Relay(f"127.0.0.1:{one.port}") as relay, self._stack:
            one.relays[self._victim] = relay
            yield

    def tend(self, one: Disturbed) -> None:
        """Cut, mend, and measure how long the hospital takes to hand in."""
        relay, status = (
            one.relays[self._victim],
            one.folder / "state" / self._victim / FINE_TUNING,
        )
        if self._since is None and status.exists() and '"training"' in status.read_text():
            self._since, self.happened = time.monotonic(), 1
            self._before = len(one.patients[self._victim].acknowledged())
            if self._how == "packets dropped":
                self._stack.enter_context(dropping(relay.port, 1.0))
            else:
                relay.cut("silent" if self._how == "silent" else "reset")
        elif (
            self._since is not None
            and not self._mended
            and time.monotonic() - self._since >= self._seconds
        ):
            self._mended = time.monotonic()
            self._stack.close()
            relay.mend()
        elif (
            self._mended
            and not self._waited
            and len(one.patients[self._victim].acknowledged()) > self._before
        ):
            self._waited = time.monotonic() - self._mended

    def notes(self) -> dict[str, float]:
        """Return the time until the hospital has handed in."""
        return {"seconds_from_mending_to_acknowledgement": round(self._waited, 1)}


class Loss(Fault):
    """Loss of packets between all hospitals and the coordinator, in both directions."""

    name = f"{100 * LOSS:.0f} % packet loss"

    @contextmanager
    def around(self, one: Disturbed) -> Iterator[None]:
        """Drop packets from the first one on."""
        with dropping(one.port, LOSS) as counted:
            yield
            self._seen, self._dropped = counted()
        self.happened = 1

    def notes(self) -> dict[str, float]:
        """Return the numbers of packets."""
        return {"packets": self._seen, "packets_dropped": self._dropped}


class SlowLink(Fault):
    """A slow line of its own for every hospital, with high latency."""

    name = f"{LINK_BITS_PER_S / 1e6:.0f} Mbit/s, {1000 * LATENCY_S:.0f} ms each way"

    @contextmanager
    def around(self, one: Disturbed) -> Iterator[None]:
        """Set up a relay for each hospital."""
        with ExitStack() as stack:
            for name in one.sites:
                one.relays[name] = stack.enter_context(
                    Relay(f"127.0.0.1:{one.port}", LINK_BITS_PER_S, LATENCY_S)
                )
            yield
            self._passed, self.happened = sum(relay.passed() for relay in one.relays.values()), 1

    def notes(self) -> dict[str, float]:
        """Return the numbers of bytes."""
        return {"bytes": self._passed}


def play(folder: Path, originals: list[Path], fault: Fault) -> Outcome:
    """Run once, with a fault."""
    began = time.monotonic()
    one = Disturbed(folder, originals)
    try:
        with fault.around(one):
            one.coordinator.start()
            for name in one.early:
                one.join(name)
            while (status := one.coordinator.wait(0.1)) is None:
                if time.monotonic() - began > LIMIT_S:
                    raise NotEnded(
                        f"the run did not end in {LIMIT_S:.0f} s; its logs are in {folder}"
                    )
                one.tend()
                fault.tend(one)
            if status != 0:
                raise NotEnded(one.coordinator.log.read_text()[-3000:])
            seconds = time.monotonic() - began
    finally:
        one.close()
    return one.outcome(seconds, fault.happened, fault.notes())


def faults(
    kills: int, cut_s: float, dice: random.Random, calm_s: float
) -> dict[str, tuple[int, Callable[[int], Fault]]]:
    """Return every kind of fault.

    Each has the number of times that it has to happen, and a function that makes it for the rest.
    """
    return {
        "cut_silent": (1, lambda _: CutOff("silent", cut_s)),
        "cut_reset": (1, lambda _: CutOff("reset", cut_s)),
        **(
            {
                "cut_dropped": (1, lambda _: CutOff("packets dropped", cut_s)),
                "loss": (1, lambda _: Loss()),
            }
            if is_own()
            else {}
        ),
        "slow": (1, lambda _: SlowLink()),
        "hospital_kills": (kills, lambda missing: HospitalKills(missing, dice, calm_s)),
        "coordinator_kills": (kills, lambda missing: CoordinatorKills(missing, dice, calm_s)),
    }


def suffer(
    name: str,
    times: int,
    make: Callable[[int], Fault],
    folder: Path,
    originals: list[Path],
    calm: Outcome,
) -> dict[str, object]:
    """Run again and again until the fault has happened often enough."""
    runs: list[Outcome] = []
    failure = ""
    while (missing := times - sum(run.disturbed for run in runs)) > 0:
        fault = make(missing)
        try:
            runs.append(play(folder / f"{name}-{len(runs)}", originals, fault))
        except NotEnded as error:
            failure = str(error)
            print(f"{fault.name}: {failure}", flush=True)
            break
        differs = runs[-1].differs(calm)
        same = f"DIFFERS IN {', '.join(differs)}" if differs else "the same model and contributions"
        print(
            f"{fault.name}, {runs[-1].disturbed} times: {same}; {runs[-1].seconds:.0f} s "
            f"{runs[-1].notes or ''}",
            flush=True,
        )
    return {
        "fault": fault.name,
        "times": sum(run.disturbed for run in runs),
        "runs": len(runs),
        "seconds": [round(run.seconds, 1) for run in runs],
        "contributions_acknowledged": sum(run.acknowledged for run in runs),
        "contributions_lost": sum(run.lost for run in runs),
        "not_ended": failure,
        "wrong": [
            {"differs": run.differs(calm), **asdict(run)} for run in runs if run.differs(calm)
        ],
        "notes": [run.notes for run in runs if run.notes],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cut", type=float, default=60.0, help="seconds of a cut")
    parser.add_argument(
        "--short", action="store_true", help="two kills of a hospital, two of the coordinator"
    )
    parser.add_argument("--only", nargs="*", help="some of the faults, by the names in the results")
    parser.add_argument("--folder", type=Path, help="keep everything there")
    options = parser.parse_args()
    if options.short:
        options.kills, options.only = 2, SHORT
    missing = enter_own_network()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # and end all processes
    if missing:
        print(f"without packets dropped: {missing}")
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        coarse = [replace(scanner, voxel_mm=(5.0, 5.0, 6.0)) for scanner in HOSPITALS[:ALL]]
        originals = write_cohort(
            folder / "cohort", sites=ALL, subjects=(VERSIONS, 1, 1), seed=7, scanners=coarse
        )
        found: dict[str, object] = {"machine": machine(), "left_out": missing or ""}
        calm = play(folder / "calm", originals, Fault())
        assert calm.differs(calm) == [], calm
        print(
            f"undisturbed: {calm.model[:12]}, {calm.acknowledged} contributions, "
            f"{calm.seconds:.0f} s",
            flush=True,
        )
        found["undisturbed"] = asdict(calm)
        dice = random.Random(0)
        kinds = faults(options.kills, options.cut, dice, calm.seconds)
        for kind, (times, make) in kinds.items():
            if not options.only or kind in options.only:
                found[kind] = suffer(kind, times, make, folder, originals, calm)
                if not options.only:
                    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
