"""Membership inference: how well an attacker tells whether a description includes a subject.

    python benchmarks/membership.py build/membership

Seven minutes on one core, of which six make FOLDER/vectors.safetensors: the subjects' vectors of
every installed statistic, those of other packages included. Where that file exists, nobody is
scanned again: take a fresh FOLDER after a statistic was added or changed. The figures go to
benchmarks/results/membership.json, and replace those that are there.

All subjects are deformed copies of one average brain, scanned by one scanner, on the demo's grid.
The attacker has an image of the subject (the scan that was described, or one of another visit), the
description, and reference subjects of the same scanner that are not in it. There are two attacks:
the correlation of Homer et al. 2008 (https://doi.org/10.1371/journal.pgen.1000167) and the
likelihood ratio of two Gaussians, with the covariance of the reference subjects. Members are told
from others of the same population, so guessing has AUC 0.5. Intervals are bootstrapped over the
subjects of the pool.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from measuring import machine
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.release import Release
from polyclinic.config.schemas import Config, DataConfig
from polyclinic.describing.statistics import statistics
from polyclinic.imaging.grids import network_grid, resample
from polyclinic.imaging.headers import Grid
from polyclinic_demos.cohorts.anatomy import Subject, subject
from polyclinic_demos.cohorts.hospitals import HOSPITALS
from polyclinic_demos.cohorts.scanner import Scan, acquire

RESULTS = Path(__file__).with_name("results")
SUBJECTS, REFERENCES, TRIALS, BOOTSTRAPS = 128, 32, 500, 1000
SIZES = (2, 4, 8, 16, 32, 64)
NOISES = (0.0, 0.3, 1.0)
SCANS = ("same scan", "another visit")
ATTACKS = ("correlation", "likelihood ratio")
# the best shrinkage for the attacker: 0.005 to 0.05 are alike, 0.5 is worse
TURN_DEGREES, SHRINKAGE = (2.0, 0.02)
FIRST_SEED = 10_000


def main(folder: Path) -> None:
    """Measure and write results/membership.json."""
    torch.set_num_threads(1)
    began, load = time.perf_counter(), machine()
    pool = measure_pool(folder)
    scanned = time.perf_counter()
    rows = [row for name, vectors in pool.items() for row in attack_all(name, vectors)]
    seconds = {"pool_s": scanned - began, "attacks_s": time.perf_counter() - scanned}
    privacy = [
        {
            "noise_multiplier": noise,
            "delta": Release().delta,
            "epsilon": e(1),
            "statistics": len(pool),
            "epsilon_of_all": e(len(pool)),
        }
        for noise in NOISES[1:]
        for e in [Release(noise_multiplier=noise).epsilon]
    ]
    numbers = {name: vectors.shape[2] for name, vectors in pool.items()}
    setting = {
        "numbers": numbers,
        "subjects": SUBJECTS,
        "references": REFERENCES,
        "trials": TRIALS,
        "scanner": HOSPITALS[0].name,
    }
    found = {"machine": load, **seconds, **setting, "privacy": privacy, "auc": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "membership.json").write_text(json.dumps(found, indent=1) + "\n")
    print_table(rows)
    print(json.dumps({**seconds, "privacy": privacy}, indent=1))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="keeps the subjects' vectors")
    return parser.parse_args()


def measure_pool(folder: Path) -> dict[str, Tensor]:
    """Return statistic to (2, subjects, numbers).

    These are each subject's vectors of the described scan and of another visit's.
    """
    path = folder / "vectors.safetensors"
    if path.exists() and (missing := set(statistics()) - set(load_file(path))):
        raise SystemExit(f"{path} lacks {', '.join(sorted(missing))}: name a fresh folder.")
    if not path.exists():
        config = load_config(["experiment=demo"])
        torch.manual_seed(config.seed)
        network: nn.Module = instantiate(config.model).eval()
        measured: list[dict[str, Tensor]] = []
        for number in range(SUBJECTS):
            person, seed = subject(FIRST_SEED + 10 * number), FIRST_SEED + 10 * number
            for visit, who in enumerate((person, come_again(person, number))):
                measured.append(
                    measure(acquire(who, HOSPITALS[0], seed + 1 + visit), config, network)
                )
            print(f"\rsubject {number + 1} of {SUBJECTS}", end="", flush=True)
        print()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: torch.stack([each[name] for each in measured]) for name in statistics()}, path
        )
    return {
        name: torch.stack([rows[0::2], rows[1::2]]).double()
        for name, rows in load_file(path).items()
    }


def come_again(person: Subject, seed: int) -> Subject:
    """Return the same anatomy in a slightly different pose."""
    turns = np.deg2rad(TURN_DEGREES) * np.random.default_rng(seed).standard_normal(3)
    moved = np.eye(4)
    for axis, angle in enumerate(turns):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        plane = np.eye(4)
        plane[[i, i, j, j], [i, j, i, j]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        moved = moved @ plane
    return replace(person, pose=person.pose @ moved)


def measure(scan: Scan, config: Config, network: nn.Module) -> dict[str, Tensor]:
    """Compute every statistic of one scan, on the network's grid as `preparation` makes it."""
    image = on_grid(scan, config.data)
    with torch.inference_mode():
        return {name: statistic.measure(image, network) for name, statistic in statistics().items()}


def on_grid(scan: Scan, data: DataConfig) -> Tensor:
    height, width, depth = scan.image.shape
    native = Grid((height, width, depth), scan.affine)
    volume = resample(
        torch.from_numpy(scan.image.astype(np.float32))[None], native, network_grid(native, data)
    )
    for part in data.intensity:
        volume = instantiate(part)({"image": volume})["image"]
    return torch.as_tensor(volume.as_tensor() if hasattr(volume, "as_tensor") else volume).float()


@dataclass
class Duels:
    """Counter of how often a member scored above a non-member, for every pair over all trials."""

    wins: Tensor
    met: Tensor

    @classmethod
    def none(cls) -> "Duels":
        """Return the counter before the first trial."""
        return cls(
            torch.zeros(SUBJECTS, SUBJECTS, dtype=torch.float64),
            torch.zeros(SUBJECTS, SUBJECTS, dtype=torch.float64),
        )

    def add(self, members: Tensor, others: Tensor, scores: Tensor) -> None:
        """Add one trial: `scores` of all subjects."""
        difference = scores[members, None] - scores[None, others]
        self.wins[members[:, None], others] += (difference > 0).double() + 0.5 * (
            difference == 0
        ).double()
        self.met[members[:, None], others] += 1

    def auc(self) -> dict[str, float]:
        """Return the AUC with a 95 % interval over the subjects of the pool."""
        draws = torch.randint(
            SUBJECTS, (BOOTSTRAPS, SUBJECTS), generator=torch.Generator().manual_seed(0)
        )
        weights = torch.stack([draw.bincount(minlength=SUBJECTS) for draw in draws]).double()
        areas = ((weights @ self.wins) * weights).sum(1) / ((weights @ self.met) * weights).sum(1)
        low, high = areas.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return {
            "auc": round(float(self.wins.sum() / self.met.sum()), 3),
            "low": round(low, 3),
            "high": round(high, 3),
        }


def attack_all(name: str, vectors: Tensor) -> list[dict[str, object]]:
    """Run every size, noise, scan and attack for one statistic."""
    flat = vectors.flatten(0, 1)
    flat = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp_min(1.0)
    left, scale, _ = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    # rotated into the space that the pool spans: what lies outside tells nothing
    spanned = (left * scale).reshape(2, SUBJECTS, -1)
    rows = []
    for noise in NOISES:
        for size in SIZES:
            duels = {(scan, attack): Duels.none() for scan in SCANS for attack in ATTACKS}
            generator = torch.Generator().manual_seed(size)
            for _ in range(TRIALS):
                one_trial(spanned, size, noise, generator, duels)
            for (scan, attack), each in duels.items():
                rows.append(
                    {
                        "statistic": name,
                        "n": size,
                        "noise_multiplier": noise,
                        "scan": scan,
                        "attack": attack,
                        **each.auc(),
                    }
                )
    return rows


def one_trial(
    spanned: Tensor,
    size: int,
    noise: float,
    generator: torch.Generator,
    duels: dict[tuple[str, str], Duels],
) -> None:
    """Draw reference subjects and members, and release the members' mean.

    Then everybody else is scored.
    """
    order = torch.randperm(SUBJECTS, generator=generator)
    references, members, others = order.split([REFERENCES, size, SUBJECTS - REFERENCES - size])
    shaken = noise * torch.randn(spanned.shape[2], generator=generator, dtype=torch.float64)
    released = (spanned[0, members].sum(0) + shaken) / size
    centre = spanned[0, references].mean(0)
    _, scale, axes = torch.linalg.svd(spanned[0, references] - centre, full_matrices=False)
    spread = scale.square() / (REFERENCES - 1)
    for number, scan in enumerate(SCANS):
        own, seen = spanned[number] - centre, released - centre
        cosine = own @ seen / torch.linalg.vector_norm(own, dim=1)
        common = (1 / size + 1 / REFERENCES, (size - 1) / size**2 + 1 / REFERENCES)
        absent, present = (covariance(spread, each, (noise / size) ** 2) for each in common)
        ratio = squared(seen[None], axes, *absent) - squared(seen - own / size, axes, *present)
        duels[scan, "correlation"].add(members, others, cosine)
        duels[scan, "likelihood ratio"].add(members, others, ratio)


def covariance(spread: Tensor, share: float, floor: float) -> tuple[Tensor, float]:
    """Return the variance along each principal axis, and everywhere else.

    It is that of a mean with `share` of a subject's variance, shrunk, plus noise.
    """
    rest = SHRINKAGE * float(spread.mean())
    return share * ((1 - SHRINKAGE) * spread + rest) + floor, share * rest + floor


def squared(rows: Tensor, axes: Tensor, along: Tensor, elsewhere: float) -> Tensor:
    """Return the squared Mahalanobis distance of each row."""
    return rows.square().sum(1) / elsewhere + (
        (rows @ axes.T).square() * (1 / along - 1 / elsewhere)
    ).sum(1)


def print_table(rows: list[dict[str, object]]) -> None:
    """Print the better of the two attacks."""
    for scan in SCANS:
        for noise in NOISES:
            print(
                f"\n{scan}, noise multiplier {noise:g}\n| statistic | "
                + " | ".join(f"n = {size}" for size in SIZES)
                + " |"
            )
            print("|---" * (len(SIZES) + 1) + "|")
            for name in dict.fromkeys(str(row["statistic"]) for row in rows):
                cells = []
                for size in SIZES:
                    wanted = {"statistic": name, "n": size, "noise_multiplier": noise, "scan": scan}
                    best = max(
                        (row for row in rows if wanted.items() <= row.items()),
                        key=lambda row: float(str(row["auc"])),
                    )
                    cells.append(f"{best['auc']:.2f} ({best['low']:.2f}-{best['high']:.2f})")
                print(f"| `{name}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(read_arguments().folder)
