"""The coordinator's page with 100 hospitals and 10 runs that go on: how fast, at what cost.

A page is open, as in a browser: it follows the stream of changes and fetches itself again at each,
every two seconds at most. Meanwhile every page is asked for again and again, and events come.

    python benchmarks/page.py --seconds 120
    python benchmarks/page.py --minutes 10

With --minutes, what an hour does to the page's memory is estimated from a shorter time: a line is
laid through the memory's means over 20 parts of it, the first fifth left out, in which caches fill.
Its slope is told with its standard error. Rounds begin and end meanwhile, as in runs that go on.
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random
from statistics import fmean, quantiles

import psutil

HOSPITALS, RUNS, ROUNDS = 100, 10, 20
EVENTS_S = 20  # events in a second, over all runs
PAUSE_S = 0.25  # between two requests
WARM_UP = 0.2  # share of the time before the memory counts
PARTS = 20  # means of the memory: neighbouring samples are not independent of each other
SAMPLE_S = 0.5
PAGES = ("/", "/hospitals", "/runs/run-3", "/compare?run=run-1&run=run-2", "/metrics")
SITES = [f"hospital-{number:03}" for number in range(HOSPITALS)]


def write_runs(folder: Path, random: Random) -> list[Path]:
    """Write runs that have done some rounds; this process works at them."""
    paths = []
    for number in range(RUNS):
        path = folder / f"run-{number}"
        path.mkdir()
        described = {
            "name": path.name,
            "state": "running",
            "started": f"2026-01-01T00:00:{number:02}+00:00",
            "pid": os.getpid(),
            "rounds": 2 * ROUNDS,
            "arms": [{"name": "fedavg", "title": "FedAvg"}],
            "score_name": "Dice",
        }
        (path / "run.json").write_text(json.dumps(described))
        lines = [event("joined", site=site, modality="CT", training=20) for site in SITES]
        lines.append(event("arm_start", title="FedAvg", rounds=2 * ROUNDS))
        for round_number in range(1, ROUNDS + 1):
            lines += [answer(random, site, round_number) for site in SITES for _ in range(2)]
            lines.append(event("round_end", round=round_number))
        (path / "events.jsonl").write_text("".join(lines))
        figures = [
            {"arm": "fedavg", "round": number, "phase": "validate", "site": site, "score": 0.5}
            for number in range(1, ROUNDS + 1)
            for site in SITES
        ]
        text = "".join(json.dumps(each) + "\n" for each in figures)
        (path / "metrics.jsonl").write_text(text)
        paths.append(path)
    return paths


def event(kind: str, **values: object) -> str:
    told = {"time": time.time(), "arm": "fedavg", "kind": kind, **values}
    return json.dumps(told) + "\n"


def answer(random: Random, site: str, number: int) -> str:
    if random.random() < 0.5:
        values = {"phase": "train", "loss": random.random()}
    else:
        values = {"phase": "evaluate", "score": random.random()}
    return event("answered", site=site, round=number, seconds=3.0, **values)


def write_on(paths: list[Path], random: Random, ended: threading.Event) -> None:
    """Let the runs go on: a round of each ends after two answers of every hospital."""
    told = dict.fromkeys(paths, 0)
    while not ended.wait(1 / EVENTS_S):
        path = random.choice(paths)
        number = ROUNDS + 1 + told[path] // (2 * HOSPITALS)
        told[path] += 1
        lines = answer(random, random.choice(SITES), number)
        if told[path] % (2 * HOSPITALS) == 0:
            lines += event("round_end", round=number)
        with (path / "events.jsonl").open("a") as file:
            file.write(lines)


def fetch(port: int, path: str) -> tuple[float, int]:
    """Return the seconds that an answer took, and its bytes."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    answered = connection.getresponse()
    size = len(answered.read())
    connection.close()
    assert answered.status == 200, answered.status
    return time.perf_counter() - start, size


def follow(port: int, ended: threading.Event) -> None:
    """Do what an open page does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/changes")
    stream = connection.getresponse()
    while not ended.is_set():
        if stream.readline().startswith(b"event: change"):
            fetch(port, "/")
            time.sleep(2.0)
    connection.close()


def start(folder: Path) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "polyclinic_server.cli.main", "page", "--page", "0"]
    process = subprocess.Popen([*command, "--runs", str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r":(\d+)/", process.stdout.readline())
    assert found is not None
    return process, int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--minutes", type=float, help="also the memory's slope over this time")
    asked = parser.parse_args()
    random, ended = Random(0), threading.Event()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_runs(folder, random)
        process, port = start(folder)
        threads = [
            threading.Thread(target=write_on, args=(paths, random, ended), daemon=True),
            threading.Thread(target=follow, args=(port, ended), daemon=True),
        ]
        try:
            for thread in threads:
                thread.start()
            measure(process.pid, port, asked.seconds)
            if asked.minutes:
                watch_memory(process.pid, port, 60 * asked.minutes)
        finally:
            ended.set()
            process.terminate()
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()


def measure(pid: int, port: int, seconds: float) -> None:
    watched = psutil.Process(pid)
    time.sleep(3.0)
    idle_s, began = sum(watched.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds / 2)
    spent_s = sum(watched.cpu_times()[:2]) - idle_s
    print(f"cost with one open page: {100 * spent_s / (time.monotonic() - began):.1f} % of a core")
    before = watched.memory_info().rss
    for path in PAGES:  # the first time, templates are compiled
        fetch(port, path)
    end = time.monotonic() + seconds / 2
    times: dict[str, list[float]] = {path: [] for path in PAGES}
    sizes = {}
    while time.monotonic() < end:
        for path, found in times.items():
            took, sizes[path] = fetch(port, path)
            found.append(took)
            time.sleep(PAUSE_S)
    for path, found in times.items():
        cuts = quantiles(found, n=20)
        print(
            f"{path:28} median {1000 * cuts[9]:5.0f} ms, 95th percentile {1000 * cuts[18]:5.0f} ms,"
            f" {sizes[path] / 1000:.0f} kB, {len(found)} answers"
        )
    grown = watched.memory_info().rss - before
    print(f"memory {watched.memory_info().rss / 2**20:.0f} MiB, {grown / 2**20:+.1f} MiB meanwhile")


def watch_memory(pid: int, port: int, seconds: float) -> None:
    """Ask for all pages again and again, and tell how the memory grows by the hour."""
    began = time.monotonic()
    samples: list[tuple[float, float]] = []  # hours, MiB
    while (passed := time.monotonic() - began) < seconds:
        samples.append((passed / 3600, anonymous_mib(pid)))
        fetch(port, PAGES[len(samples) % len(PAGES)])
        time.sleep(SAMPLE_S)
    slope, error = fit_slope(samples[int(WARM_UP * len(samples)) :], PARTS)
    first, last = samples[0][1], samples[-1][1]
    print(
        f"memory in {seconds / 60:.1f} min: {first:.1f} to {last:.1f} MiB, anonymous; after the "
        f"first {100 * WARM_UP:.0f} %: {slope:+.2f} MiB an hour, standard error {error:.2f}"
    )


def anonymous_mib(pid: int) -> float:
    """Return a process's anonymous memory; what it shares with others comes and goes with them."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def fit_slope(samples: list[tuple[float, float]], parts: int) -> tuple[float, float]:
    """Lay a line through the means of equal parts of a series by least squares.

    Args:
        samples: Time and value, at least one for each part.
        parts: Number of parts, at least 3.

    Returns:
        The slope, and its standard error.
    """
    size = len(samples) / parts
    cuts = [samples[round(n * size) : round((n + 1) * size)] for n in range(parts)]
    times = [fmean(time for time, _ in cut) for cut in cuts]
    values = [fmean(value for _, value in cut) for cut in cuts]
    middle, level = fmean(times), fmean(values)
    spread = sum((time - middle) ** 2 for time in times)
    slope = sum((t - middle) * v for t, v in zip(times, values, strict=True)) / spread
    left = sum((v - level - slope * (t - middle)) ** 2 for t, v in zip(times, values, strict=True))
    return slope, (left / (parts - 2) / spread) ** 0.5


if __name__ == "__main__":
    main()
