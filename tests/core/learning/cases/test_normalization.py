"""Normalization by channel: by hand, and as MONAI does it."""

import pytest
import torch
from monai.transforms import NormalizeIntensity

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError
from polyclinic.learning.cases.normalization import normalize

TWO = ["data=planned", "data.channels=2", "data.modality=[CT,PET]"]


def test_each_channel_has_its_own() -> None:
    data = load_config(
        [
            *TWO,
            "data.normalization=[ct,z_score]",
            "data.foreground=[-100,300,50,25,0,1,0,1]",
        ]
    ).data
    image = torch.tensor([[-500.0, 50.0, 75.0, 900.0], [0.0, 1.0, 2.0, 3.0]]).view(2, 4, 1, 1)
    found = normalize(image, data).view(2, 4)
    assert found[0].tolist() == [-6.0, 0.0, 1.0, 10.0]
    expected = torch.tensor([0.0, -1.0, 0.0, 1.0]) / (2 / 3) ** 0.5
    torch.testing.assert_close(found[1], torch.tensor([0.0, *expected[1:].tolist()]))


def test_one_entry_is_for_all_channels_as_monai_normalizes() -> None:
    data = load_config([*TWO, "data.normalization=[z_score]"]).data
    image = torch.randn(2, 5, 6, 7).clamp(min=0)
    expected = NormalizeIntensity(nonzero=True, channel_wise=True)(image.clone())
    assert torch.equal(normalize(image, data), torch.as_tensor(expected).as_subclass(torch.Tensor))
    assert not normalize(image, data)[image == 0].any()
    constant = normalize(torch.full((2, 3, 3, 3), 7.0), data)
    assert not constant.any()


def test_without_an_entry_nothing_changes() -> None:
    data = load_config(["data=segmentation"]).data
    image = torch.randn(1, 3, 3, 3)
    assert normalize(image, data) is image


@pytest.mark.parametrize(
    "settings",
    [
        ["data.normalization=[z_score,z_score,z_score]"],
        ["data.normalization=[ct,ct]"],
        ["data.normalization=[ct,ct]", "data.foreground=[-100,300,50,25]"],
        ["data.normalization=[ct]", "data.foreground=[-100,300,50,25,300,300,0,1]"],
        ["data.normalization=[ct]", "data.foreground=[-100,300,50,25,0,300,0,0]"],
    ],
)
def test_what_does_not_fit_the_channels_is_refused(settings: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"data\.(normalization|foreground)"):
        load_config([*TWO, *settings])
