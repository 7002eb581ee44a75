"""`python benchmarks/small_lesion.py [STEPS]`: is a lesion of 0.1 % of the volume learned?

A simulated cohort: textured tissue with one bright ball of about 0.1 % of the voxels, and many
smaller bright spots that are no lesion. A tiny planned network is trained with patches that are
drawn uniformly, as before 0.2, and with a third of each batch centred on the foreground; all else
is the same: seed, steps, network, optimizer. It prints the Dice of test volumes for each.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from polyclinic.config.compose import instantiate, load_config
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning import training
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.preparation import prepare

SHAPE = (80, 80, 80)
RADIUS = 4.97  # 4/3 pi r^3 is 0.1 % of the volume
SPOT = 1.5  # radius of what only looks like a lesion
COUNTS = {"training": 12, "validation": 1, "test": 8}
SEEDS = (0, 1, 2)


def write_cohort(folder: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    listed: dict[str, list[dict[str, str]]] = {}
    for split, count in COUNTS.items():
        for number in range(count):
            tissue = gaussian_filter(random.normal(size=SHAPE), 3)
            image = 100 + 10 * tissue / tissue.std() + random.normal(0, 4, SHAPE)
            for centre in random.uniform(4, np.array(SHAPE) - 4, (30, 3)):
                image[np.linalg.norm(places - centre, axis=-1) < SPOT] += 35
            centre = random.uniform(8, np.array(SHAPE) - 8)
            label = np.linalg.norm(places - centre, axis=-1) < RADIUS
            image[label] += 25
            name = f"{split}{number}"
            entry = {kind: f"{name}_{kind}.nii.gz" for kind in ("image", "label")}
            nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / entry["image"])
            label_map = nib.Nifti1Image(label.astype(np.uint8), np.eye(4))
            nib.save(label_map, folder / entry["label"])
            listed.setdefault(split, []).append(entry)
    tree = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "lesion"}, **listed}
    (folder / "dataset.json").write_text(json.dumps(tree))


def train(folder: Path, share: float, steps: int, seed: int) -> tuple[float, float]:
    """Return the mean Dice of the test volumes, and the seconds of a step."""
    config = load_config(
        [
            "data=planned",
            "model=dynunet",
            "training=nnunet",
            "data.labels=[background,lesion]",
            "data.patch=[32,32,32]",
            "model.features=8",
            f"training.steps={steps}",
            "training.optimizer.momentum=0.9",
            "training.learning_rate=0.02",
            f"data.foreground_share={share}",
        ]
    )
    dataset = read_dataset(folder)
    prepared = prepare(dataset, config.data)
    torch.manual_seed(seed)
    network = instantiate(config.model)
    began = time.monotonic()
    loader = training_loader(prepared, config.training, seed)
    training.fit(network, loader, config.training, config.data)
    seconds = (time.monotonic() - began) / steps
    return evaluate_natively(network, dataset, config.data)[0].score, seconds


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    torch.set_num_threads(1)
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as name:
            write_cohort(Path(name), seed)
            for share in (0.0, 0.33):
                score, seconds = train(Path(name), share, steps, seed)
                print(
                    f"seed {seed}, foreground_share {share}: Dice {score:.3f} after {steps} steps, "
                    f"{seconds:.2f} s a step",
                    flush=True,
                )


if __name__ == "__main__":
    main()
