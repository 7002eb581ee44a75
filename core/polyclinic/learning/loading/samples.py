"""Samples of a hospital's prepared cases: cropped, shifted and augmented anew for every step.

With `training.steps` or `training.workers`, each sample's randomness follows from the loader's seed
and the sample's number: any number of processes loads the same numbers. Without, all samples draw
from one stream, as before 0.2, so that earlier figures are obtained again.
"""

from typing import Protocol, runtime_checkable

import torch
from monai.transforms import Compose
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from polyclinic.config.compose import instantiate
from polyclinic.config.mirroring import augmentation_of
from polyclinic.config.schemas import DataConfig, ShiftsConfig, TrainingConfig
from polyclinic.learning.augmenting.image_shifts import ImageShifts
from polyclinic.learning.crops import crop
from polyclinic.learning.loading.batches import Batches, Draw, seed_of
from polyclinic.learning.preparation import PreparedCases, PreparedSite, Sample
from polyclinic.learning.tasks.registry import task_of
from polyclinic.system.machine import given_cores

FOREGROUND_SHARE = 0.75  # of the slices drawn for a 2-D segmentation, unless the data says it


@runtime_checkable
class Enlarging(Protocol):
    """A transform that moves voxels, and so needs more of them than the patch has."""

    def enlarge(self, patch: tuple[int, ...]) -> tuple[int, ...]:
        """Draw the movement of the next sample; return the voxels that it needs on each axis."""
        ...


def training_loader(
    prepared: PreparedSite, training: TrainingConfig, seed: int
) -> DataLoader[dict[str, Tensor]]:
    """Make batches of random samples, for one pass or for `training.steps` steps.

    A pass has `data.samples_per_case` samples of each training case.

    Args:
        prepared: From `prepare`.
        training: For batch size, steps, generated shifts, and the number of processes that load,
            of which there are at most as many as cores.
        seed: Equal seeds draw equal samples in equal order.

    Returns:
        Batches of `image` (float32, BCHWD, or BCHW in 2-D) and `label` (int64, B1HWD or B1HW, with
        a channel for each region; classes: B; findings and numbers: float32, (B, labels)).
    """
    generator, data = Generator().manual_seed(seed), prepared.data
    each = training.steps > 0 or training.workers > 0
    workers = min(training.workers, given_cores())
    samples = TrainingSamples(prepared.training, data, seed, training.shifts, each_seeded=each)
    batches = Batches(
        (len(prepared.training), data.samples_per_case),
        training.batch_size,
        generator,
        steps=training.steps,
        foreground_share=data.foreground_share,
        in_a_row=not prepared.training.complete,
    )
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0 and not training.steps,
        generator=generator,
        pin_memory=torch.cuda.is_available(),
    )


class TrainingSamples(Dataset[dict[str, Tensor]]):
    """Random crops (3-D) or axial slices (2-D) of the cases.

    They are shifted while air is still exactly 0, then augmented.
    """

    def __init__(
        self,
        cases: PreparedCases,
        data: DataConfig,
        seed: int,
        shifts: ShiftsConfig,
        *,
        each_seeded: bool = False,
    ) -> None:
        self.cases, self.data, self.seed, self.each_seeded = cases, data, seed, each_seeded
        self.generator = Generator()
        self.augment = Compose([instantiate(part) for part in augmentation_of(data)])
        self.shift = ImageShifts(shifts, data.spatial_dims, seed + 2)
        self._begin(seed)

    def __len__(self) -> int:
        return len(self.cases) * self.data.samples_per_case

    def __getitem__(self, drawn: int | Draw) -> dict[str, Tensor]:
        draw = drawn if isinstance(drawn, Draw) else Draw(drawn, drawn)
        if self.each_seeded:
            self._begin(seed_of(self.seed, draw.number))
        sample = self.cases[draw.sample // self.data.samples_per_case]
        fields = self._cut(sample, draw.centred)
        fields["image"] = self.shift(fields["image"])
        fields = {
            key: torch.as_tensor(value)
            for key, value in self.augment(fields).items()
            if key in fields
        }
        image = _plain(fields["image"]).float().contiguous()
        if "label" in fields:
            return {"image": image, "label": _plain(fields["label"]).round().long().contiguous()}
        assert sample.label is not None
        return {"image": image, "label": task_of(self.data).target(sample.label, self.data)}

    def _begin(self, seed: int) -> None:
        """Let everything that is drawn follow from a seed."""
        self.generator.manual_seed(seed + 1)
        self.augment.set_random_state(seed=seed)
        self.shift.set_seed(seed + 2)

    def _cut(self, sample: Sample, centred: bool) -> dict[str, Tensor]:
        """Crop a sample, as large as the augmentation needs it."""
        fields = {"image": sample.image}
        if isinstance(sample.label, Tensor):
            fields["label"] = sample.label
        dims, patch = self.data.spatial_dims, self.data.patch
        voxel = self._draw_voxel(sample) if centred else None
        if dims == 2:
            chosen = int(voxel[2]) if voxel is not None else self._choose_slice(sample)
            fields = {key: volume[..., chosen] for key, volume in fields.items()}
        sizes = fields["image"].shape[1:]
        if voxel is None:
            places = [
                self._draw(size - wanted + 1) for size, wanted in zip(sizes, patch, strict=True)
            ]
        else:  # the patch may reach beyond the upper border, as in nnU-Net
            places = [
                max(int(at) - wanted // 2, 0) if size >= wanted else 0
                for at, size, wanted in zip(voxel[:dims], sizes, patch, strict=True)
            ]
        larger = self._enlarge()
        return {key: crop(volume, places, patch, larger).float() for key, volume in fields.items()}

    def _enlarge(self) -> tuple[int, ...]:
        wanted = tuple(self.data.patch)
        for part in self.augment.transforms:
            if isinstance(part, Enlarging):
                wanted = part.enlarge(wanted)
        return wanted

    def _draw(self, count: int) -> int:
        """Draw a whole number in 0 .. count - 1; 0 if there is no choice."""
        return int(torch.randint(count, (1,), generator=self.generator)) if count > 1 else 0

    def _draw_voxel(self, sample: Sample) -> Tensor | None:
        """Draw a voxel of a class that the case has; None if it has no foreground."""
        if not sample.foreground:
            return None
        voxels = sample.foreground[self._draw(len(sample.foreground))]
        return voxels[self._draw(len(voxels))]

    def _choose_slice(self, sample: Sample) -> int:
        """Choose a slice, mostly with foreground; in a classification one that is not constant."""
        only = not isinstance(sample.label, Tensor)
        mostly = self.data.foreground_share == 0
        if only or (mostly and float(torch.rand(1, generator=self.generator)) < FOREGROUND_SHARE):
            return int(sample.slices[self._draw(len(sample.slices))])
        return self._draw(sample.image.shape[-1])


def _plain(value: Tensor) -> Tensor:
    """Return the tensor without MONAI's record of what was done to it."""
    return value.as_subclass(Tensor)
