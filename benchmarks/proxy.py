"""What the deformation proxy hides, and what it costs, over several seeds.

    python benchmarks/proxy.py --seeds 0 1 2

Every seed has people, visits, a generator, a segmenter and attackers of its own: `polyclinic-server
train-proxy` on a cohort of `polyclinic_demos.cohorts.visits`, people divided into training,
attackers' training and test. With POLYCLINIC_DATA, the generator is also used on the brains of real
people. After an interruption, the same command goes on. Results: benchmarks/results/proxy.json; a
report for each seed is in its folder.
"""

import argparse
import json
import os
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console

from polyclinic_demos.cohorts.visits import T1, T1_ELSEWHERE, Visits, write_visits
from polyclinic_demos.proxy import LESIONS, write_people
from polyclinic_strategies.proxy.report.page import write_proxy_report
from polyclinic_strategies.proxy.report.tables import proxy_tables
from polyclinic_strategies.proxy.train import Orders, Others, train_proxy

RESULTS = Path(__file__).parent / "results" / "proxy.json"
ELSEWHERE = "real anatomies, another simulated scanner"
REAL = 8  # number of real people that attackers know, and of those to be recognized


def one_seed(
    seed: int,
    people: tuple[int, int, int],
    visits: int,
    folder: Path,
    settings: list[str],
    console: Console,
) -> dict[str, Any]:
    own = write_people(folder / f"visits-{seed}", people, visits, seed, 0, console)
    marked = write_people(
        folder / f"lesions-{seed}", (0, *people[1:]), visits, seed, LESIONS, console
    )
    others = [Others.with_lesions(marked)]
    if data := os.environ.get("POLYCLINIC_DATA"):
        maps = tuple(sorted((Path(data) / "brain_label_maps").glob("*.nii.gz"))[: 2 * REAL])
        real = write_visits(
            folder / f"real-{seed}", T1, Visits((0, REAL, REAL), visits, people=maps), seed
        )
        note = (
            "Real people's folds differ in number and course, which no smooth warp changes; "
            "few people, so wide intervals."
        )
        others.append(Others("real anatomies, simulated scanner", note, real, scored=True))
        elsewhere = Visits((0, REAL, REAL), visits, people=maps)
        folder_elsewhere = write_visits(folder / f"elsewhere-{seed}", T1_ELSEWHERE, elsewhere, seed)
        note = "Another contrast, noise and voxel size than in training."
        others.append(Others(ELSEWHERE, note, folder_elsewhere, scored=True))
    out = folder / f"seed-{seed}"
    train_proxy(Orders((own,), out, (f"seed={seed}", *settings), tuple(others)), console)
    console.print(f"report: {write_proxy_report(out)}")
    for table in proxy_tables(out):
        console.print(table)
    report: dict[str, Any] = json.loads((out / "proxy.json").read_text())
    return report


def summarize(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and spread over the seeds."""
    row: dict[str, Any]
    rows: dict[str, Any] = {"seeds": [report["seed"] for report in reports]}
    rows["dice direct"] = spread([report["direct"]["dice"]["mean"] for report in reports])
    rows["seconds"] = spread([report["seconds"] for report in reports])
    for number, arm in enumerate(reports[0]["arms"]):
        found = [report["arms"][number] for report in reports]
        row = {
            key: spread([each[key] for each in found])
            for key in ("strength_mm", "largest_mm", "smallest_jacobian", "round_trip", "folded")
        }
        if arm["dice"] is not None:
            row["dice"] = spread([each["dice"]["mean"] for each in found])
            row["dice of classes"] = {
                label: spread([each["dice"][label] for each in found]) for label in arm["dice"]
            }
        row["attackers"] = {
            name: attacked([each["attackers"][name] for each in found]) for name in arm["attackers"]
        }
        rows[arm["title"]] = row
    one_key = [report["one_key"] for report in reports]
    rows[one_key[0]["title"]] = {
        name: attacked([each["attackers"][name] for each in one_key])
        for name in one_key[0]["attackers"]
    }
    rows["curve"] = [report["curve"] for report in reports]
    for number, other in enumerate(reports[0]["extra"]):
        found = [report["extra"][number]["attackers"] for report in reports]
        row = {name: attacked([each[name] for each in found]) for name in found[0]}
        if "dice" in other:
            extra = [report["extra"][number] for report in reports]
            row["dice"] = spread([each["dice"]["mean"] for each in extra])
            row["dice direct"] = spread([each["direct"]["dice"]["mean"] for each in extra])
        rows[other["title"]] = row
    return rows


def attacked(results: list[list[dict[str, float]]]) -> dict[str, Any]:
    """Summarize all restarts of all seeds."""
    every = [each for restarts in results for each in restarts]
    means = {key: mean(each[key] for each in every) for key in ("auc", "tpr", "rank1")}
    widest = {
        "lowest": min(each["low"] for each in every),
        "highest": max(each["high"] for each in every),
    }
    return {
        **means,
        "highest auc": max(each["auc"] for each in every),
        "restarts": len(every),
        "interval": widest,
    }


def spread(values: list[float]) -> list[float]:
    """Return mean and standard deviation."""
    return [mean(values), stdev(values) if len(values) > 1 else 0.0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--people", type=int, nargs=3, default=[24, 32, 32], help="training, attackers, test"
    )
    parser.add_argument("--visits", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/proxy"))
    parser.add_argument("settings", nargs="*", help="SETTING=VALUE of train-proxy")
    asked = parser.parse_args()
    console = Console(highlight=False)
    training, known, test = asked.people
    reports = []
    for seed in asked.seeds:
        people = (training, known, test)
        reports.append(one_seed(seed, people, asked.visits, asked.folder, asked.settings, console))
        RESULTS.write_text(json.dumps(summarize(reports), indent=1) + "\n")  # of the seeds so far
    console.print_json(RESULTS.read_text())


if __name__ == "__main__":
    main()
