"""Intensity steps of bundles: MONAI's own, and nothing else."""

import pytest
import torch
from monai import transforms

from polyclinic.config.bundles.flat import flatten
from polyclinic.config.bundles.transforms import INTENSITY
from polyclinic.errors import ConfigError
from polyclinic.learning.bundles.intensity import IntensitySteps

RANGE = {"a_min": -1, "a_max": 3, "b_min": 0.0, "b_max": 1.0, "clip": True}


def test_steps_are_monais_one_after_another() -> None:
    image = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    flat = flatten(
        [
            {"transform": "ScaleIntensityRange", **RANGE},
            {"transform": "NormalizeIntensity", "nonzero": True, "channel_wise": True},
        ]
    )
    found = IntensitySteps(flat)({"image": image.clone()})["image"]
    wanted = transforms.ScaleIntensityRange(-1, 3, 0.0, 1.0, clip=True)(image.clone())
    wanted = transforms.NormalizeIntensity(nonzero=True, channel_wise=True)(wanted)
    assert torch.equal(found.as_tensor(), wanted.as_tensor())


def test_without_steps_an_image_stays_as_it_is() -> None:
    image = torch.ones(1, 2, 2, 2)
    assert IntensitySteps([])({"image": image})["image"] is image


@pytest.mark.parametrize("name", INTENSITY)
def test_every_step_takes_the_arguments_that_are_understood(name: str) -> None:
    import inspect

    taken = inspect.signature(getattr(transforms, f"{name}d")).parameters
    assert set(INTENSITY[name]) <= set(taken)


@pytest.mark.parametrize(
    "steps",
    [
        ["0.transform Lambda", "0.func x"],
        ["0.transform LoadImage"],
        ["0.minv 0"],
        ["transform ScaleIntensity"],
        ["0.transform ScaleIntensity", "0.dtype x"],
        ["0.transform ScaleIntensityRange"],
        ["0.transform ThresholdIntensity", "0.threshold x"],
        ["0 1"],
    ],
)
def test_other_steps_are_refused(steps: list[str]) -> None:
    with pytest.raises(ConfigError, match="intensity_steps"):
        IntensitySteps(steps)
