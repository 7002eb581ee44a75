"""A bundle's folder as one typed value: network, grid, intensities, channels and classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyclinic.config.bundles import transforms
from polyclinic.config.bundles.files import Source, check_folder, find_weights, read_source
from polyclinic.config.bundles.metadata import Metadata, read_metadata
from polyclinic.config.bundles.network import Definition, Kind, read_network
from polyclinic.config.bundles.references import check_code, resolve
from polyclinic.config.bundles.transforms import Step, read_steps
from polyclinic.errors import BundleInvalid
from polyclinic.system.text import clean

ORIENTATION = "RAS"
LARGEST = 10_000  # voxels of a patch along an axis
WINDOWS = ("SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer")
WHOLE = "SimpleInferer"


@dataclass(frozen=True)
class Bundle:
    """What a bundle says.

    Attributes:
        network: MONAI's class and its arguments.
        metadata: Channels and classes.
        orientation: Axes of the image that the network sees.
        spacing_mm: Size of its voxels; None: images are resized to the patch; empty: not said.
        patch: Voxels of the image, or of one window; empty: not said.
        overlap: Of neighbouring windows.
        intensity: Steps that change intensities: a table each, with MONAI's name as `transform`.
        weights: File of the weights, if there is one.
    """

    network: Definition
    metadata: Metadata
    orientation: str
    spacing_mm: tuple[float, ...] | None
    patch: tuple[int, ...]
    overlap: float
    intensity: tuple[Mapping[str, Any], ...]
    weights: Path | None

    @property
    def kind(self) -> Kind:
        """The task."""
        return self.network.kind


@dataclass
class _Grid:
    """What the transforms say so far."""

    orientation: str = ORIENTATION
    oriented: bool = False
    spacing_mm: tuple[float, ...] | None = ()
    size: tuple[int, ...] = ()
    middle: tuple[int, ...] = ()


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle of configuration and weights; nothing of it is executed.

    Args:
        folder: Holds configs/metadata.json, configs/inference.json (or .yaml) and models/.

    Raises:
        BundleInvalid: It is damaged, brings code, or asks for what polyclinic does not do.
    """
    check_folder(folder)
    inference, training = read_source(folder, "inference"), read_source(folder, "train")
    metadata = read_source(folder, "metadata")
    if inference is None or metadata is None:
        missing = "inference" if inference is None else "metadata"
        raise BundleInvalid(
            folder / "configs" / f"{missing}.json", "is missing", "A bundle needs both of them"
        )
    for source in (inference, training):
        if source is not None:
            check_code(source)
    network = _network(inference, training)
    described = read_metadata(metadata)
    grid, intensity = _preprocessing(inference)
    _check_outputs(inference, network.kind)
    patch, overlap = _windows(inference, network.kind)
    if grid.spacing_mm is None:
        patch = grid.size
    elif grid.middle and network.kind == "classification":
        patch = grid.middle
    elif grid.middle:
        raise BundleInvalid(
            inference.path,
            f"{transforms.MIDDLE}d leaves out parts of an image that is to be segmented",
            "Remove it: windows cover the whole image",
        )
    return Bundle(
        network,
        described,
        grid.orientation,
        grid.spacing_mm,
        patch or described.shape,
        overlap,
        intensity,
        find_weights(folder),
    )


def _network(inference: Source, training: Source | None) -> Definition:
    """Read `network_def` of the inference, or of the training."""
    for source in filter(None, (inference, training)):
        if "network_def" in source.tree:
            definition = resolve(source, "network_def")
            return read_network(definition, f"{source.path}, network_def")
    raise BundleInvalid(
        inference.path, "has no network_def", "Name the network and its arguments there"
    )


def _preprocessing(source: Source) -> tuple[_Grid, tuple[Mapping[str, Any], ...]]:
    """Read the grid and the intensities of `preprocessing`."""
    known = {**transforms.DONE, **transforms.GEOMETRY, **transforms.INTENSITY}
    grid = _Grid()
    intensity: list[Mapping[str, Any]] = []
    for step in read_steps(*_part(source, "preprocessing"), known, "image"):
        if step.name == transforms.MIDDLE:
            grid.middle = _size(step)
        elif step.name in transforms.GEOMETRY:
            if intensity:
                raise BundleInvalid(
                    step.place,
                    f"{step.name}d follows a step that changes intensities",
                    "Images are brought onto their grid first here: put it in front",
                )
            _GEOMETRY[step.name](grid, step)
        elif step.name in transforms.INTENSITY:
            intensity.append({"transform": step.name, **step.arguments})
    return grid, tuple(intensity)


def _part(source: Source, name: str, unread: Sequence[str] = ()) -> tuple[Any, str]:
    """Return a part and its place.

    Raises:
        BundleInvalid: There is no such part.
    """
    if name not in source.tree:
        raise BundleInvalid(source.path, f"has no {name}", "A bundle needs it")
    return resolve(source, name, unread), f"{source.path}, {name}"


def _orient(grid: _Grid, step: Step) -> None:
    said = step.arguments.get("axcodes")
    codes = said if isinstance(said, str) else ""
    axes = {_AXES.get(code, "") for code in codes}
    if "" in axes or not len(axes) == len(codes) in (2, 3):
        raise BundleInvalid(
            f"{step.place}#axcodes",
            f"'{clean(said)[:40]}' names no axes",
            "Write a letter for each axis, such as RAS",
        )
    if grid.spacing_mm and len(set(grid.spacing_mm)) > 1:
        raise BundleInvalid(
            step.place,
            "it follows Spacingd, whose voxel sizes then belong to other axes",
            "Put Orientationd in front of Spacingd",
        )
    grid.orientation, grid.oriented = codes, True


def _space(grid: _Grid, step: Step) -> None:
    sizes = _numbers(step, "pixdim", float, 1e-3, 1e3)
    grid.spacing_mm = sizes * 3 if len(sizes) == 1 else (*sizes, 1.0)[:3]


def _resize(grid: _Grid, step: Step) -> None:
    grid.size, grid.spacing_mm = _size(step), None


def _size(step: Step) -> tuple[int, ...]:
    size = tuple(int(each) for each in _numbers(step, "spatial_size", int, 1, LARGEST))
    if len(size) not in (2, 3):
        raise BundleInvalid(
            f"{step.place}#spatial_size", "is not the size of an image", "Write two or three sizes"
        )
    return size


_AXES = dict(zip("RLAPIS", "RRAAII", strict=True))
_GEOMETRY = {"Orientation": _orient, "Spacing": _space, "Resize": _resize}


def _windows(source: Source, kind: Kind) -> tuple[tuple[int, ...], float]:
    """Read the patch and the overlap of the inferer; no patch if it takes whole images."""
    if kind == "classification" and "inferer" not in source.tree:
        return (), 0.25
    inferer, place = _part(source, "inferer")
    name = str(inferer.get("_target_") if isinstance(inferer, Mapping) else "").rpartition(".")[2]
    if name == WHOLE:
        return (), 0.25
    if name not in WINDOWS:
        raise BundleInvalid(
            place,
            f"'{clean(name)[:80]}' is no way to infer that is known here",
            f"Write {WINDOWS[0]}, or {WHOLE} for whole images",
        )
    step = Step(name, inferer, place)
    size = tuple(int(each) for each in _numbers(step, "roi_size", int, 1, LARGEST))
    overlap = _numbers(step, "overlap", float, 0.0, 0.99) if "overlap" in inferer else (0.25,)
    if len(size) not in (2, 3) or len(set(overlap)) != 1:
        raise BundleInvalid(
            place,
            "its roi_size has not two or three sizes, or its overlap differs between axes",
            "Write one size for each axis, and one overlap",
        )
    return size, overlap[0]


def _check_outputs(source: Source, kind: Kind) -> None:
    """Refuse outputs that are no classes of which one is chosen."""
    if "postprocessing" not in source.tree:
        return
    chain, place = _part(source, "postprocessing", transforms.UNREAD)
    for step in read_steps(chain, place, transforms.AFTER):
        if step.arguments.get("sigmoid") or step.arguments.get("threshold") is not None:
            raise BundleInvalid(
                step.place,
                f"the {kind} is of regions or classes that may overlap (sigmoid)",
                "Bundles of classes that exclude each other (softmax) are read",
            )


def _numbers(
    step: Step, name: str, kind: type[int] | type[float], least: float, most: float
) -> tuple[float, ...]:
    value = step.arguments.get(name)
    values: list[Any] = value if isinstance(value, list) else [value]
    kinds = (int,) if kind is int else (int, float)
    if not 0 < len(values) <= 3 or not all(
        type(each) in kinds and least <= each <= most for each in values
    ):
        raise BundleInvalid(
            f"{step.place}#{name}",
            f"'{clean(value)[:80]}' is not 1 to 3 numbers from {least:g} to {most:g}",
            "Write the numbers themselves",
        )
    return tuple(values)
