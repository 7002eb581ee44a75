"""Tables of `real_hospitals.py`: mean, worst hospital, gap and paired tests.

    python benchmarks/real_table.py results/NAME.json

prints every hospital's scores, as docs/explanation has them;

    python benchmarks/real_table.py results/merging-A.json results/merging-B.json

prints what `real_merging.py` found, side by side.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

BASE = "fedavg"
GROUPS = {"inside": "took part", "newcomer": "left out in turn, without labels"}


def summarize(
    cells: Sequence[Mapping[str, Any]], base: str = BASE
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return group -> arm -> figures.

    The pairs of a test are hospitals in folds. Gap: the largest loss against the base's arm of a
    hospital, mean over folds; `gap_error` is its standard error over folds.
    """
    scores: dict[str, dict[str, dict[tuple[int, str], float]]] = {}
    for cell in cells:
        group = "inside" if cell["left"] == "inside" else "newcomer"
        for arm, row in cell["scores"].items():
            for site, score in row.items():
                scores.setdefault(group, {}).setdefault(arm, {})[cell["fold"], site] = score
    return {group: _arms(arms, base) for group, arms in scores.items()}


def _arms(
    arms: Mapping[str, Mapping[tuple[int, str], float]], base_arm: str
) -> dict[str, dict[str, Any]]:
    found = {}
    base = arms.get(base_arm, {})
    for arm, row in arms.items():
        sites = sorted({site for _, site in row})
        folds = sorted({fold for fold, _ in row})
        complete = [fold for fold in folds if all((fold, site) in row for site in sites)]
        if not complete:
            continue
        each = {site: fmean(row[fold, site] for fold in complete) for site in sites}
        means = [fmean(row[fold, site] for site in sites) for fold in complete]
        figures: dict[str, Any] = {
            "folds": len(complete),
            "mean": fmean(means),
            "deviation": stdev(means) if len(means) > 1 else None,
            "worst": min(each.values()),
            "worst_site": min(each, key=lambda site: each[site]),
            "sites": each,
        }
        if base and arm != base_arm:
            figures |= _compare(row, base, sites, [f for f in complete if (f, sites[0]) in base])
        found[arm] = figures
    return found


def _compare(
    row: Mapping[tuple[int, str], float],
    base: Mapping[tuple[int, str], float],
    sites: Sequence[str],
    folds: Sequence[int],
) -> dict[str, Any]:
    from scipy.stats import wilcoxon

    differences = {
        site: [row[fold, site] - base[fold, site] for fold in folds if (fold, site) in base]
        for site in sites
    }
    lost = min(differences, key=lambda site: fmean(differences[site]))
    pairs = [value for several in differences.values() for value in several]
    error = stdev(differences[lost]) / len(folds) ** 0.5 if len(folds) > 1 else None
    p = float(wilcoxon(pairs).pvalue) if any(pairs) and len(pairs) > 5 else None
    return {
        "gain": fmean(pairs),
        "gap": fmean(differences[lost]),
        "gap_error": error,
        "gap_site": lost,
        "pairs": len(pairs),
        "p": p,
    }


def show(table: Mapping[str, Mapping[str, Mapping[str, Any]]], against: str = "averaging") -> str:
    """Return the table as Markdown."""
    lines = []
    for group, arms in table.items():
        lines += [
            f"| {GROUPS[group]} | folds | mean | worst hospital | against {against} | "
            "largest loss of a hospital | p |",
            "|---|---|---|---|---|---|---|",
        ]
        for arm, row in sorted(arms.items(), key=lambda pair: -pair[1]["mean"]):
            spread = "" if row["deviation"] is None else f" ± {row['deviation']:.3f}"
            cells = [arm, str(row["folds"]), f"{row['mean']:.3f}{spread}"]
            cells.append(f"{row['worst']:.3f} ({row['worst_site']})")
            if "gain" in row:
                error = "" if row["gap_error"] is None else f" ± {row['gap_error']:.3f}"
                cells += [f"{row['gain']:+.3f}", f"{row['gap']:+.3f}{error} ({row['gap_site']})"]
                cells.append("" if row["p"] is None else f"{row['p']:.3f}")
            else:
                cells += ["", "", ""]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def show_sites(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a table with every hospital's score as Markdown."""
    lines = []
    for group, arms in table.items():
        sites = list(next(iter(arms.values()))["sites"])
        lines += [
            f"| {GROUPS[group]} | folds | {' | '.join(sites)} | mean | against averaging |",
            "|---" * (len(sites) + 4) + "|",
        ]
        for arm, row in sorted(arms.items(), key=lambda pair: -pair[1]["mean"]):
            cells = [arm, str(row["folds"]), *(f"{row['sites'][site]:.3f}" for site in sites)]
            cells += [f"{row['mean']:.3f}", f"{row['gain']:+.3f}" if "gain" in row else ""]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


RESTORED = ", restored"


def show_merging(tables: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return tables of `real_merging.py` side by side, with p against the restored own models.

    A model of fewer folds than the table has says so.
    """
    arms = {name: dict(table["inside"]) for name, table in tables.items()}
    known = dict.fromkeys(arm.removesuffix(RESTORED) for each in arms.values() for arm in each)
    columns = [f"{name}{each}" for name in arms for each in ("", RESTORED)]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]

    def cell(name: str, arm: str) -> str:
        row = arms[name].get(arm)
        if row is None:
            return ""
        few = row["folds"] < max(each["folds"] for each in arms[name].values())
        folds = f", {row['folds']} folds" if few else ""
        p = row.get("p")
        small = "p < 0.001" if p is not None and p < 0.001 else f"p {p or 0:.3f}"
        told = "" if p is None else f" ({small}{folds})"
        return f"{row['mean']:.3f}{told or (folds and f' ({folds[2:]})')}"

    for arm in sorted(known, key=lambda arm: -_best_mean(arms, arm)):
        cells = [cell(name, arm + end) for name in arms for end in ("", RESTORED)]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _best_mean(tables: Mapping[str, Mapping[str, Any]], arm: str) -> float:
    """Return the mean over tables of the better of an arm's two figures."""
    return fmean(
        max(table[name]["mean"] for name in (arm, arm + RESTORED) if name in table)
        for table in tables.values()
        if arm in table or arm + RESTORED in table
    )


def main() -> None:
    """Print the tables that are named."""
    found = {
        " ".join(path.stem.split("-")[1:-1]): json.loads(path.read_text())["table"]
        for path in map(Path, sys.argv[1:])
    }
    merging = Path(sys.argv[1]).stem.startswith("merging-")
    print(show_merging(found) if merging else show_sites(next(iter(found.values()))))


if __name__ == "__main__":
    main()
