"""Networks of bundles: MONAI's own, and nothing else."""

import inspect
from typing import Any

import pytest
import torch
from monai.networks import nets
from torch import nn

from polyclinic.config.bundles.flat import flatten
from polyclinic.config.bundles.network import KINDS, SEGMENTATION
from polyclinic.config.compose import instantiate
from polyclinic.errors import ConfigError
from polyclinic.learning.bundles.network import bundle_network
from tests.monai_bundles import UNET, made

TARGET = "polyclinic.learning.bundles.network.bundle_network"
UNET_ARGUMENTS = flatten({key: value for key, value in UNET.items() if key != "_target_"})


def test_it_is_monais_own_network_with_monais_own_names() -> None:
    torch.manual_seed(7)
    found = instantiate({"_target_": TARGET, "network": "UNet", "arguments": UNET_ARGUMENTS})
    assert type(found) is nets.UNet
    wanted = made(UNET).state_dict()
    assert list(found.state_dict()) == list(wanted)
    assert all(torch.equal(found.state_dict()[name], wanted[name]) for name in wanted)


FLAT = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
SMALL: dict[str, dict[str, Any]] = {
    "AttentionUnet": {**FLAT, "channels": [4, 8], "strides": [2]},
    "BasicUNet": {**FLAT, "features": [4, 4, 4, 4, 4, 4]},
    "DynUNet": {
        **FLAT,
        **{"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]},
        "filters": [4, 8, 8],
    },
    "FlexibleUNet": {**FLAT, "backbone": "resnet18"},
    "HighResNet": FLAT,
    "MedNeXt": {**FLAT, "init_filters": 4},
    "SegResNet": FLAT,
    "SegResNetDS": {**FLAT, "init_filters": 4},
    "SwinUNETR": {"in_channels": 1, "out_channels": 2, "feature_size": 12, "spatial_dims": 2},
    "UNet": {**FLAT, "channels": [4, 8], "strides": [2]},
    "UNETR": {
        **FLAT,
        **{"img_size": [64, 64], "hidden_size": 24, "mlp_dim": 24, "num_heads": 2},
        "feature_size": 4,
    },
    "VNet": FLAT,
    "EfficientNetBN": {
        **{"model_name": "efficientnet-b0", "spatial_dims": 2, "in_channels": 1},
        "num_classes": 2,
    },
    "resnet18": {"spatial_dims": 2, "n_input_channels": 1, "num_classes": 2},
    "SEResNet50": {"spatial_dims": 2, "in_channels": 1, "num_classes": 2},
    "DenseNet121": FLAT,
}


@pytest.mark.parametrize("name", SMALL)
def test_a_network_gives_one_output_while_it_trains(name: str) -> None:
    network = bundle_network(name, flatten(SMALL[name]))
    shape = network.train()(torch.zeros(2, 1, 64, 64)).shape
    assert tuple(shape) == ((2, 2) if KINDS[name] == "classification" else (2, 2, 64, 64))


def test_every_network_for_segmentation_was_tried() -> None:
    assert set(SEGMENTATION) <= set(SMALL)


@pytest.mark.parametrize("name", KINDS)
def test_every_name_of_the_list_is_a_network_of_monai(name: str) -> None:
    made_by = getattr(nets, name)
    assert inspect.isfunction(made_by) or issubclass(made_by, nn.Module)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("", [], "bundle=FOLDER"),
        ("os.system", [], "none of the networks"),
        ("torch.nn.Linear", ["in_features 1", "out_features 1"], "none of the networks"),
        ("HoVerNet", [], "none of the networks"),
        ("EfficientNetBN", ["pretrained true"], "never fetched"),
        ("UNet", [*UNET_ARGUMENTS, "more 1"], "cannot be made"),
        ("UNet", UNET_ARGUMENTS[1:], "cannot be made"),
        ("UNet", ["channels.0 4", "strides.0 true"], "cannot be made"),
        ("UNet", [text.replace("channels.1 8", "channels.1 5000000") for text in UNET_ARGUMENTS],
         "too large"),
        ("DynUNet", ["deep_supervision true"], "one output"),
    ],
)  # fmt: skip
def test_other_networks_are_refused(name: str, arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        bundle_network(name, arguments)
