"""The picture of docs/explanation/when-refinement-helps.md, from tables of `real_hospitals.py`.

    python benchmarks/real_picture.py results/real-A-8.json [...] --to docs/images/NAME.svg

Each row is a hospital; a point is how much better than averaging a model does there, on the test
cases of all folds.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

GROUPS = {"inside": "took part", "newcomer": "left out, no labels"}
ARMS = {
    "refined": ("o", "#00796b", "refined"),
    "refined, shuffled": ("x", "#9e9e9e", "refined, descriptions shuffled"),
    "local": ("s", "#c2185b", "trained alone"),
}
ROW_IN, WIDTH_IN = 0.28, 4.2


def main() -> None:
    """Draw the tables below each other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True)
    asked = parser.parse_args()
    mpl.rcParams.update({"svg.hashsalt": "polyclinic", "font.size": 8})
    found = {
        path.stem.split("-")[1]: json.loads(path.read_text())["table"] for path in asked.tables
    }
    rows = [max(len(table[g]["refined"]["sites"]) for g in table) for table in found.values()]
    figure, axes = plt.subplots(
        len(found),
        2,
        figsize=(2 * WIDTH_IN, sum(ROW_IN * count + 0.75 for count in rows)),
        gridspec_kw={"height_ratios": rows},
        squeeze=False,
        layout="constrained",
    )
    for line, (name, table) in zip(axes, found.items(), strict=True):
        for axis, (group, title) in zip(line, GROUPS.items(), strict=True):
            _draw(axis, table.get(group, {}), f"{name}: {title}")
    handles = [
        plt.Line2D([], [], marker=marker, color=colour, linestyle="", label=label)
        for marker, colour, label in ARMS.values()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(ARMS), frameon=False)
    figure.supxlabel("score minus that of averaging, mean over folds")
    figure.savefig(asked.to, metadata={"Date": None})


def _draw(axis: plt.Axes, arms: dict[str, dict[str, dict[str, float]]], title: str) -> None:
    axis.set_title(title, loc="left")
    if "fedavg" not in arms:
        axis.set_axis_off()
        return
    base = arms["fedavg"]["sites"]
    sites = sorted(base, reverse=True)
    for arm, (marker, colour, _) in ARMS.items():
        for height, site in enumerate(sites):
            if site in arms.get(arm, {}).get("sites", {}):
                axis.plot(arms[arm]["sites"][site] - base[site], height, marker, color=colour)
    axis.axvline(0, color="#616161", linewidth=0.8)
    axis.set_yticks(range(len(sites)), sites)
    axis.set_ylim(-0.6, len(sites) - 0.4)
    axis.grid(axis="x", alpha=0.3)


if __name__ == "__main__":
    main()
