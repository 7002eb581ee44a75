"""The networks that a bundle may name: MONAI's own, by a list that is part of polyclinic.

A hospital has the same list, and makes nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from polyclinic.config.bundles.flat import flatten
from polyclinic.errors import BundleInvalid, ConfigError
from polyclinic.system.text import clean

Kind = Literal["segmentation", "classification"]
HOME = "monai.networks.nets"
SEGMENTATION = (
    *("AttentionUnet", "BasicUNet", "DynUNet", "FlexibleUNet", "HighResNet", "MedNeXt"),
    *("SegResNet", "SegResNetDS", "SwinUNETR", "UNet", "UNETR", "VNet"),
)
CLASSIFICATION = (
    *("DenseNet", "DenseNet121", "DenseNet169", "DenseNet201", "DenseNet264", "EfficientNetBN"),
    *("ResNet", "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnet200", "SENet154", "SEResNet50", "SEResNet101", "SEResNet152", "SEResNext50"),
    "SEResNext101",
)
KINDS: dict[str, Kind] = {
    **dict.fromkeys(SEGMENTATION, "segmentation"),
    **dict.fromkeys(CLASSIFICATION, "classification"),
}
_NAMES = {name.lower(): name for name in KINDS}  # MONAI's aliases differ in capitals alone
_SUPERVISED = {"deep_supervision": False, "dsdepth": 1}  # argument -> without further outputs


@dataclass(frozen=True)
class Definition:
    """A network of MONAI.

    Attributes:
        name: Its class, or function, of `monai.networks.nets`.
        arguments: What it is made with: plain values.
    """

    name: str
    arguments: Mapping[str, Any]

    @property
    def kind(self) -> Kind:
        """What its outputs are."""
        return KINDS[self.name]


def check_name(name: str) -> str:
    """Return MONAI's own name of a network that may be made.

    Raises:
        ConfigError: It is not on the list.
    """
    home, _, last = name.rpartition(".")
    known = _NAMES.get(last.lower())
    if known is None or (home not in ("", HOME) and not home.startswith(f"{HOME}.")):
        raise ConfigError(
            f"'{clean(name)[:100]}' is none of the networks that a bundle may name: "
            f"{', '.join(KINDS)}, all of {HOME}."
        )
    return known


def read_network(definition: Any, place: str) -> Definition:
    """Read a bundle's `network_def`, its references replaced.

    Args:
        definition: `_target_` and arguments.
        place: Where it lies, for errors.

    Raises:
        BundleInvalid: It is no network of the list, or an argument is none that travels.
    """
    if not isinstance(definition, Mapping) or not isinstance(definition.get("_target_"), str):
        raise BundleInvalid(
            place, "names no network", "It needs a table with _target_ and the network's arguments"
        )
    arguments = {name: value for name, value in definition.items() if name != "_target_"}
    try:
        name = check_name(definition["_target_"])
        check_arguments(arguments)
        flatten(arguments)
    except ConfigError as error:
        raise BundleInvalid(
            place,
            str(error).rstrip("."),
            "Hospitals make nothing but these, of plain values: offer another network as a "
            "package that they install",
        ) from error
    return Definition(name, arguments)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments with which a network does more than compute one output.

    Raises:
        ConfigError: The first such argument.
    """
    if arguments.get("pretrained"):
        raise ConfigError(
            "pretrained: weights are never fetched from a network. Put them into "
            "models/model.pt, and set it to false."
        )
    for name, plain in _SUPERVISED.items():
        if arguments.get(name, plain) not in (plain, None):
            raise ConfigError(
                f"{name}: a bundle's network is trained on its one output. Set it to "
                f"{str(plain).lower()}; the weights of the other outputs are left out."
            )
