"""Pictures of docs/explanation, from tables of `real_hospitals.py` and `real_merging.py`.

    python benchmarks/real_picture.py results/real-A-8.json [...] --to docs/images/NAME.svg
    python benchmarks/real_picture.py --of merging results/merging-A-8.json [...] --to NAME.svg

Each row is a hospital; a point is how much better a model does there than averaging, or than the
hospital's own model, on the test cases of the folds that both have.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

GROUPS = {"inside": "took part", "newcomer": "left out, no labels"}
Marks = dict[str, tuple[str, str, str]]  # arm -> marker, colour, title
REFINEMENT: Marks = {
    "refined": ("o", "#00796b", "refined"),
    "refined, shuffled": ("x", "#9e9e9e", "refined, descriptions shuffled"),
    "local": ("s", "#c2185b", "trained alone"),
}
MERGING: Marks = {
    "chosen by hospitals": ("o", "#00796b", "merged, rule chosen by hospitals"),
    "in turn": ("D", "#f9a825", "merged in turn"),
    "fedavg": ("s", "#c2185b", "FedAvg, with rounds"),
    "random vector": ("x", "#9e9e9e", "random vector of equal length"),
}
# subject -> arms, the arm that they are compared with, and its name
SUBJECTS = {
    "refinement": (REFINEMENT, "fedavg", "that of averaging"),
    "merging": (MERGING, "own model", "that of the hospital's own model"),
}
ROW_IN, WIDTH_IN = 0.28, 4.2


def main() -> None:
    """Draw the tables below each other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--of", choices=SUBJECTS, default="refinement")
    asked = parser.parse_args()
    mpl.rcParams.update({"svg.hashsalt": "polyclinic", "font.size": 8})
    arms, against, named = SUBJECTS[asked.of]
    found = {
        " ".join(path.stem.split("-")[1:-1]): json.loads(path.read_text())["table"]
        for path in asked.tables
    }
    groups = [group for group in GROUPS if any(group in table for table in found.values())]
    rows = [max(len(table[g][against]["sites"]) for g in table) for table in found.values()]
    figure, axes = plt.subplots(
        len(found),
        len(groups),
        figsize=(max(1.5, len(groups)) * WIDTH_IN, sum(ROW_IN * count + 0.75 for count in rows)),
        gridspec_kw={"height_ratios": rows},
        squeeze=False,
        layout="constrained",
    )
    for line, (name, table) in zip(axes, found.items(), strict=True):
        for axis, group in zip(line, groups, strict=True):
            title = f"{name}: {GROUPS[group]}" if len(groups) > 1 else name
            _draw(axis, table.get(group, {}), title, arms, against)
    handles = [
        plt.Line2D([], [], marker=marker, color=colour, linestyle="", label=label)
        for marker, colour, label in arms.values()
    ]
    columns = len(arms) if len(groups) > 1 else 2
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)
    figure.supxlabel(f"score minus {named}, mean over folds")
    figure.savefig(asked.to, metadata={"Date": None})


def _draw(
    axis: plt.Axes,
    found: dict[str, dict[str, dict[str, float]]],
    title: str,
    arms: Marks,
    against: str,
) -> None:
    axis.set_title(title, loc="left")
    if against not in found:
        axis.set_axis_off()
        return
    base = found[against]["sites"]
    sites = sorted(base, reverse=True)
    for arm, (marker, colour, _) in arms.items():
        for height, site in enumerate(sites):
            if site in found.get(arm, {}).get("sites", {}):
                axis.plot(found[arm]["sites"][site] - base[site], height, marker, color=colour)
    axis.axvline(0, color="#616161", linewidth=0.8)
    axis.set_yticks(range(len(sites)), sites)
    axis.set_ylim(-0.6, len(sites) - 0.4)
    axis.grid(axis="x", alpha=0.3)


if __name__ == "__main__":
    main()
