"""The whole demo: how long it takes, its table, and the largest memory of every process.

    python benchmarks/demo_table.py [--seeds 0] [--folder build/demo-table]

For mean and spread over several seeds of the same settings, without processes, see `refinement.py`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil
from measuring import machine

RESULTS = Path(__file__).with_name("results")
ROLES = {
    "polyclinic_server.cli.main": "coordinator",
    "polyclinic_client.fleet.worker": "worker",
    "polyclinic_client.cli.main": "client",
    "polyclinic_demos.pooled": "pooled",
    "polyclinic_demos.newcomers": "test of newcomers",
    "polyclinic_client.site.fine_tuning": "fine-tuning",
}


def run_seed(
    seed: int, folder: Path, peaks: dict[str, float]
) -> tuple[dict[str, dict[str, float]], float]:
    """Run one demo; return site -> arm -> mean test Dice, and the seconds that it took."""
    start = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "polyclinic_server.cli.main",
        "demo-full",
        "--seed",
        str(seed),
        "--folder",
        str(folder),
    ]
    process = subprocess.Popen(command)
    watcher = threading.Thread(target=watch_memory, args=(process, peaks))
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"the demo of seed {seed} failed")
    watcher.join()
    seconds = time.monotonic() - start
    run = Path((folder / "latest.txt").read_text().strip())
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        if line["phase"] == "test" and "score" in line:
            table[line["site"]][line["arm"]] = line["score"]
    return dict(table), seconds


def watch_memory(process: subprocess.Popen[bytes], peaks: dict[str, float]) -> None:
    """Keep the peak resident memory (MB) of each kind of process below the demo."""
    while process.poll() is None:
        try:
            for child in psutil.Process(process.pid).children(recursive=True):
                role = next((ROLES[word] for word in child.cmdline() if word in ROLES), None)
                if role:
                    peaks[role] = max(peaks.get(role, 0.0), child.memory_info().rss / 1e6)
        except psutil.Error:
            pass
        time.sleep(0.5)


def main() -> None:
    """Run every seed and write results/demo_table.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("build/demo-table"))
    arguments = parser.parse_args()
    found: dict[str, object] = {"machine": machine(), "seconds": [], "tables": []}
    peaks: dict[str, float] = {}
    for seed in arguments.seeds:
        table, seconds = run_seed(seed, arguments.folder, peaks)
        found["tables"].append(table)  # type: ignore[attr-defined]
        found["seconds"].append(seconds)  # type: ignore[attr-defined]
    tables: list[dict[str, dict[str, float]]] = found["tables"]  # type: ignore[assignment]
    means: dict[str, list[float]] = {}
    for group, alone in (("took part", True), ("joined later", False)):
        for arm in (
            ("local", "fedavg", "centre", "refinement", "pooled")
            if alone
            else ("fedavg", "centre", "refinement", "pooled")
        ):
            rows = [
                [row[arm] for row in table.values() if ("local" in row) == alone]
                for table in tables
            ]
            means[f"{arm}, {group}"] = [statistics.mean(row) for row in rows]
    found |= {"mean_per_seed": means, "peak_mb": peaks}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "demo_table.json").write_text(json.dumps(found, indent=1) + "\n")
    for arm, values in means.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        rounded = [round(value, 3) for value in values]
        print(f"{arm}: {statistics.mean(values):.3f} +/- {spread:.3f}  {rounded}")


if __name__ == "__main__":
    main()
