"""Speed and memory of training, beside a plain MONAI script.

    python benchmarks/training_speed.py speed [STEPS]
    python benchmarks/training_speed.py memory [VOLUMES...]

`speed` trains the same network with the same optimizer, loss, patch and batch: through polyclinic's
loader and loop, and through MONAI's CacheDataset, DataLoader and transforms. Blocks of steps
alternate, so that other work on the machine meets both alike; the ratio is of the fastest blocks.

`memory` prepares volumes of 240 x 240 x 155 with four channels, trains for a few steps, and says
the largest anonymous memory of the process, for several numbers of volumes: it must not grow with
them. Pages of mapped files, which the system takes back when others need them, count apart.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from measuring import AnonymousPeaks, peak_mb
from monai.data import CacheDataset, DataLoader, list_data_collate
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
    SpatialPadd,
)

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.schemas import Config
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning import training
from polyclinic.learning.cases.disk_cache import DiskCache
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.optimizing.stepping import make_optimizer
from polyclinic.learning.preparation import prepare

PATCH, FEATURES, BATCH, BLOCKS = (48, 48, 48), 16, 2, 4
SMALL, LARGE, CHANNELS = (96, 96, 80), (240, 240, 155), 4
ANGLE = np.deg2rad(30)


def write_cohort(folder: Path, shape: tuple[int, ...], channels: int, count: int) -> None:
    random = np.random.default_rng(0)
    entries = []
    for number in range(count + 1):
        image = random.integers(0, 1000, (*shape, channels), dtype=np.int16)
        label = np.zeros(shape, np.uint8)
        label[tuple(slice(size // 3, size // 2) for size in shape)] = 1
        entry = {kind: f"{kind}{number}.nii" for kind in ("image", "label")}
        image = image[..., 0] if channels == 1 else image
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / entry["image"])
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / entry["label"])
        entries.append(entry)
    names = ["T1", "T1c", "T2", "FLAIR"][:channels]
    tree = {
        "modality": {str(place): name for place, name in enumerate(names)},
        "labels": {"0": "background", "1": "lesion"},
        "training": entries[:count],
        "validation": entries[count:],
    }
    (folder / "dataset.json").write_text(json.dumps(tree))


def configure(channels: int, steps: int) -> Config:
    names = ",".join(["T1", "T1c", "T2", "FLAIR"][:channels])
    return load_config(
        [
            "data=planned",
            "model=dynunet",
            "training=nnunet",
            f"data.channels={channels}",
            f"data.modality=[{names}]",
            "data.labels=[background,lesion]",
            f"data.patch={list(PATCH)}",
            f"model.features={FEATURES}",
            f"training.batch_size={BATCH}",
            f"training.steps={steps}",
            "training.precision=float32",
        ]
    )


def plain_batches(folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches as a plain MONAI script makes them, pass after pass."""
    both = ["image", "label"]
    files = json.loads((folder / "dataset.json").read_text())["training"]
    data = [{key: str(folder / each[key]) for key in both} for each in files]
    transforms = Compose(
        [
            LoadImaged(both),
            EnsureChannelFirstd(both),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
            SpatialPadd(both, PATCH),
            RandCropByPosNegLabeld(both, "label", PATCH, pos=1, neg=2, num_samples=1),
            RandAffined(
                both,
                prob=0.36,
                rotate_range=(ANGLE, ANGLE, ANGLE),
                scale_range=(0.3, 0.3, 0.3),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandGaussianNoised("image", prob=0.1, std=0.1),
            RandGaussianSmoothd("image", prob=0.1),
            RandScaleIntensityd("image", prob=0.15, factors=0.25),
            RandAdjustContrastd("image", prob=0.15, gamma=(0.75, 1.25)),
            RandSimulateLowResolutiond("image", prob=0.12, zoom_range=(0.5, 1.0)),
            RandAdjustContrastd("image", prob=0.1, gamma=(0.7, 1.5), invert_image=True),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
        ]
    )
    cached = CacheDataset(data, transforms, progress=False)
    loader = DataLoader(cached, BATCH, shuffle=True, collate_fn=list_data_collate)
    while True:
        yield from loader


def plain_block(
    network: torch.nn.Module,
    batches: Iterator[dict[str, torch.Tensor]],
    config: Config,
    steps: int,
) -> float:
    """Return the seconds of a step of a plain loop."""
    optimizer = make_optimizer(network, config.training)
    loss_of = instantiate(config.training.loss)
    network.train()
    began = time.monotonic()
    for _ in range(steps):
        batch = next(batches)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(network(torch.as_tensor(batch["image"])), batch["label"].long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.training.clip)
        optimizer.step()
        loss.item()
    return (time.monotonic() - began) / steps


def measure_speed(steps: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_cohort(Path(name), SMALL, 1, 8)
        config = configure(1, steps)
        prepared = prepare(read_dataset(Path(name)), config.data)
        networks = [instantiate(config.model) for _ in range(2)]
        batches = plain_batches(Path(name))
        plain_block(networks[1], batches, config, 1)  # fills MONAI's cache
        ours, plain = [], []
        for block in range(BLOCKS):
            began = time.monotonic()
            loader = training_loader(prepared, config.training, block)
            training.fit(networks[0], loader, config.training, config.data)
            ours.append((time.monotonic() - began) / steps)
            plain.append(plain_block(networks[1], batches, config, steps))
        print(f"seconds a step, polyclinic {ours}, plain MONAI {plain}")
        print(
            f"best block: {min(ours):.3f} s and {min(plain):.3f} s, {min(plain) / min(ours):.2f} x"
        )


def measure_memory(count: int) -> None:
    """Prepare and train in this process, and print its largest memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, "write", name, str(count)], check=True)
        config = configure(CHANNELS, 5)
        with AnonymousPeaks(lambda: {"here": os.getpid()}) as peaks:
            began = time.monotonic()
            disk = DiskCache(folder / "cache", 1e12)
            prepared = prepare(read_dataset(folder), config.data, disk=disk)
            seconds = time.monotonic() - began
            network = instantiate(config.model)
            loader = training_loader(prepared, config.training, 0)
            training.fit(network, loader, config.training, config.data)
        print(
            f"{count} training volumes: {peaks.peaks['here'] / 1000:.2f} GB of its own at most, "
            f"{peak_mb(None) / 1000:.2f} GB with mapped files, {disk.bytes / 1e9:.2f} GB on the "
            f"disk, prepared in {seconds:.0f} s",
            flush=True,
        )


def main() -> None:
    torch.set_num_threads(1)
    command, *rest = sys.argv[1:]
    if command == "speed":
        measure_speed(int(rest[0]) if rest else 20)
    elif command == "write":
        write_cohort(Path(rest[0]), LARGE, CHANNELS, int(rest[1]))
    elif command == "one":
        measure_memory(int(rest[0]))
    else:
        for count in rest or ["4", "8", "16"]:
            subprocess.run([sys.executable, __file__, "one", count], check=True)


if __name__ == "__main__":
    main()
