"""A bundle's configs/metadata.json: channels and classes, in MONAI's schema."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated

from polyclinic.config.bundles.files import Source
from polyclinic.config.validation import validate
from polyclinic.errors import BundleInvalid, ConfigError

OPEN = ConfigDict(extra="ignore")
MOST_CLASSES = 256  # a label map is predicted in 8 bits
Name = Annotated[str, Field(strict=True, min_length=1, max_length=100)]
Number = Annotated[str, Field(pattern=r"^[0-9]{1,4}$")]


@validated(frozen=True, config=OPEN)
class _Inputs:
    num_channels: Annotated[int, Field(ge=1, le=1024)]
    modality: Annotated[str, Field(max_length=100)] = ""
    channel_def: Annotated[dict[Number, Name], Field(max_length=1024)] = Field(default_factory=dict)
    spatial_shape: list[Any] = Field(default_factory=list, max_length=3)


@validated(frozen=True, config=OPEN)
class _Outputs:
    channel_def: Annotated[dict[Number, Name], Field(min_length=2, max_length=MOST_CLASSES)]


@dataclass(frozen=True)
class Metadata:
    """What a bundle's metadata say of images and classes.

    Attributes:
        channels: Number of an image's channels.
        modality: Name of each channel; empty for one channel.
        labels: Name of class 0, 1, ...
        shape: Size of an image that the network takes, where it is fixed; else empty.
    """

    channels: int
    modality: tuple[str, ...]
    labels: tuple[str, ...]
    shape: tuple[int, ...]


def read_metadata(source: Source) -> Metadata:
    """Read what is needed of metadata.json; all else of it is left alone.

    Raises:
        BundleInvalid: Something is missing, or no such thing.
    """
    place = f"{source.path}, network_data_format"
    images = _under(source.tree, ("network_data_format", "inputs", "image"), source)
    maps = _under(source.tree, ("network_data_format", "outputs", "pred"), source)
    try:
        inputs = validate(_Inputs, images, "inputs.image.")
        outputs = validate(_Outputs, maps, "outputs.pred.")
        labels = _in_order(outputs.channel_def, len(outputs.channel_def), "outputs.pred")
        several = inputs.num_channels if inputs.num_channels > 1 else 0
        named = _in_order(inputs.channel_def, several, "inputs.image") if several else ()
    except ConfigError as error:
        raise BundleInvalid(
            place, str(error).rstrip("."), "Write it as MONAI's bundle specification describes"
        ) from error
    fixed = inputs.spatial_shape
    shape = tuple(fixed) if all(type(size) is int and 0 < size < 10_000 for size in fixed) else ()
    return Metadata(inputs.num_channels, named, labels, shape)


def _under(tree: Mapping[str, Any], path: tuple[str, ...], source: Source) -> Mapping[str, Any]:
    node: Any = tree
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        raise BundleInvalid(
            source.path,
            f"has no {'.'.join(path)}",
            "It says how many channels an image has, and in channel_def which class is which",
        )
    return node


def _in_order(names: Mapping[str, str], count: int, place: str) -> tuple[str, ...]:
    if set(names) != {str(number) for number in range(count)}:
        raise ConfigError(
            f"{place}.channel_def names {', '.join(sorted(names))[:100]}, and not 0 to {count - 1}."
        )
    return tuple(names[str(number)] for number in range(count))
