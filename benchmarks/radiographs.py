"""Write chest radiographs as a cohort of hospitals with simulated detectors.

    python benchmarks/radiographs.py FOLDER [--hospitals 6] [--cases 150]

Images are those of pneumoniamnist (POLYCLINIC_DATA), 28 x 28. Every hospital has patients of its
own, a share of pneumonia, and a detector: gamma, contrast, blur, and noise. FOLDER gets one PNG for
each case, and labels.csv, as `real_hospitals.py` and `real_merging.py` read it. So people and
disease are real, and the shift between hospitals is simulated.
"""

import argparse
import csv
import os
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

LABELS = ("normal", "pneumonia")


def main() -> None:
    """Write the cohort."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hospitals", type=int, default=6)
    parser.add_argument("--cases", type=int, default=150, help="of each hospital")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random = np.random.default_rng(asked.seed)
    with np.load(Path(os.environ["POLYCLINIC_DATA"]) / "pneumoniamnist.npz") as file:
        splits = ("train", "val", "test")
        images = np.concatenate([file[f"{split}_images"] for split in splits])
        labels = np.concatenate([file[f"{split}_labels"].ravel() for split in splits])
    images, first = np.unique(images, axis=0, return_index=True)  # a copy could be in two splits
    labels = labels[first]
    left = {label: list(random.permutation(np.flatnonzero(labels == label))) for label in (0, 1)}
    rows = []
    for number in range(asked.hospitals):
        site = f"hospital-{number + 1}"
        sick = int(random.uniform(0.4, 0.9) * asked.cases)
        chosen = [left[1].pop() for _ in range(sick)]
        chosen += [left[0].pop() for _ in range(asked.cases - sick)]
        gamma, contrast = np.exp(random.uniform(-0.7, 0.7)), random.uniform(0.5, 1.0)
        blur, noise = random.uniform(0.0, 1.2), random.uniform(0.0, 0.08)
        (asked.folder / site).mkdir(parents=True, exist_ok=True)
        for index in sorted(chosen):
            seen = gaussian_filter(images[index] / 255.0, blur) ** gamma
            seen = 0.5 + contrast * (seen - 0.5) + random.normal(0, noise, seen.shape)
            name = f"{site}/{index:05}.png"
            shade = Image.fromarray((seen.clip(0, 1) * 255).round().astype(np.uint8))
            shade.convert("RGB").save(asked.folder / name)
            rows.append({"site": site, "image": name, "label": LABELS[labels[index]]})
        print(
            f"{site}: {sick} of {asked.cases} with pneumonia; gamma {gamma:.2f}, contrast "
            f"{contrast:.2f}, blur {blur:.2f}, noise {noise:.2f}"
        )
    with (asked.folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["site", "image", "label"])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
