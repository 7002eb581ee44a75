"""Small pictures of one axial slice: the image in grey, label maps in colour on top.

Anterior is up. As in radiology, the patient's right is on the viewer's left. Pixels are square in
mm.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from polyclinic.imaging.grids import resample
from polyclinic.imaging.headers import Grid, spacing_of

# Okabe & Ito 2008, https://jfly.uni-koeln.de/color/: distinct for every kind of colour vision
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
OPACITY = 0.55
LONGEST_PIXELS = 256


def label_colours(labels: tuple[str, ...]) -> dict[str, str]:
    """Return the hex colour of every class but the background, for legends; they repeat after 7."""
    return {
        label: COLOURS[(number - 1) % len(COLOURS)]
        for number, label in enumerate(labels)
        if number > 0
    }


def write_slice_pictures(
    folder: Path,
    image: Tensor,
    affine: NDArray[np.float64],
    truth: NDArray[np.integer] | None,
    predictions: Mapping[str, NDArray[np.integer]],
) -> dict[str, Path]:
    """Write `image.png`, `truth.png` and one `NAME.png` for each prediction, of the same slice.

    Args:
        folder: Folder to write to; made if need be.
        image: CXYZ; the first channel is drawn.
        affine: 4 x 4, voxel index to mm in RAS+.
        truth: Labels, XYZ (or XY); None if there are none.
        predictions: Name to labels of the same shape.

    Returns:
        Name ("image", "truth", ...) to file.

    Raises:
        ValueError: Labels on another grid, or a name that is not a plain file name.
    """
    x, y, z = image.shape[1:]
    grid = Grid((x, y, z), np.asarray(affine, dtype=np.float64))
    maps = {**({"truth": truth} if truth is not None else {}), **predictions}
    volumes = {name: _volume(name, labels, grid) for name, labels in maps.items()}
    first = next(iter(volumes.values()), None)
    plane = slice_grid(grid, first)
    grey = window(resample(image[:1].float(), grid, plane)[0, :, :, 0], image[0])
    folder.mkdir(parents=True, exist_ok=True)
    files = {"image": folder / "image.png"}
    _save(grey.expand(3, -1, -1), files["image"])
    for name, labels in volumes.items():
        files[name] = folder / f"{name}.png"
        _save(overlay(grey, resample(labels, grid, plane, nearest=True)[0, :, :, 0]), files[name])
    return files


def _volume(name: str, labels: NDArray[np.integer], grid: Grid) -> Tensor:
    if not name or name == "image" or Path(name).name != name or name.startswith("."):
        raise ValueError(f"{name!r} is not a plain file name")
    if labels.size != np.prod(grid.shape) or labels.shape[:2] != grid.shape[:2]:
        raise ValueError(f"{name}: labels of shape {labels.shape} are not on {grid}")
    return torch.from_numpy(np.ascontiguousarray(labels.reshape(1, *grid.shape), dtype=np.int32))


def slice_grid(grid: Grid, labels: Tensor | None, longest: int = LONGEST_PIXELS) -> Grid:
    """Return the grid of one slice with square pixels.

    Columns run to the left of the patient, rows to the back (LPS).

    Args:
        grid: Grid of the volume.
        labels: 1XYZ on it, to choose the slice by; None for the middle slice.
        longest: Number of pixels of the longer side.

    Returns:
        Grid of shape (columns, rows, 1), to resample volumes onto.
    """
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(grid.affine), nib.orientations.axcodes2ornt("LPS")
    )
    if grid.shape[2] == 1 and turn[2, 0] != 2:
        # a single slice that is not axial is shown as it is
        turn = np.array([[0, 1], [1, 1], [2, 1]])
    source = np.argsort(turn[:, 0])
    sizes = np.array(grid.shape)[source]
    affine = grid.affine @ nib.orientations.inv_ornt_aff(turn, grid.shape)
    spacing = np.array(spacing_of(affine))
    pixel = max(spacing[0] * sizes[0], spacing[1] * sizes[1]) / longest
    scale = np.array([pixel, pixel, spacing[2]]) / spacing
    columns, rows = (
        max(1, round(float(size / step))) for size, step in zip(sizes[:2], scale[:2], strict=True)
    )
    axis = int(source[2])
    number = choose_slice(labels, axis) if labels is not None else int(sizes[2]) // 2
    if labels is not None and turn[axis, 1] < 0:
        number = int(sizes[2]) - 1 - number
    shift = np.eye(4)
    shift[:3, :3] = np.diag(scale)
    shift[:3, 3] = [*(sizes[:2] - 1 - (np.array([columns, rows]) - 1) * scale[:2]) / 2, number]
    return Grid((columns, rows, 1), affine @ shift)


def choose_slice(labels: Tensor, axis: int) -> int:
    """Choose the slice that shows most classes, and of those the one with most foreground.

    Args:
        labels: 1XYZ.
        axis: Axis of XYZ that runs through the slices.

    Returns:
        Index of the slice.
    """
    slices = labels[0].movedim(axis, 0).flatten(1)
    count = int(slices.max()) + 1
    sizes = (
        torch.stack([(slices == number).sum(1) for number in range(1, count)])
        if count > 1
        else slices[:, :1].T * 0
    )
    if int(sizes.sum()) == 0:
        return slices.shape[0] // 2
    shares = sizes.double() / sizes.sum(1, keepdim=True).clamp(min=1)  # each class weighs the same
    return int(shares.sum(0).argmax())


def window(plane: Tensor, volume: Tensor) -> Tensor:
    """Scale grey values to 0 .. 1, from the 1st to the 99.5th percentile of the foreground.

    Args:
        plane: Values to be shown, any shape.
        volume: Volume that the plane is from; the percentiles are taken over it.
    """
    values = volume[volume != volume.min()].float().flatten()
    if values.numel() == 0:
        return torch.zeros_like(plane)
    values = values[:: max(1, values.numel() // 100_000)]
    low, high = torch.quantile(values, 0.01), torch.quantile(values, 0.995)
    return ((plane - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def overlay(grey: Tensor, labels: Tensor) -> Tensor:
    """Lay label colours over a grey picture.

    Args:
        grey: (columns, rows), 0 to 1.
        labels: (columns, rows), whole numbers.

    Returns:
        RGB, shape (3, columns, rows).
    """
    palette = torch.tensor(
        [[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in COLOURS]
    )
    colour = palette[(labels.long() - 1) % len(COLOURS)].permute(2, 0, 1)
    mix = OPACITY * (labels > 0).float()
    return (1 - mix) * grey + mix * colour


def encode_png(picture: Tensor) -> bytes:
    """Encode a picture as PNG.

    Args:
        picture: (1 or 3, columns, rows), 0 to 1.
    """
    content = BytesIO()
    Image.fromarray(_pixels(picture)).save(content, "png", optimize=True)
    return content.getvalue()


def _pixels(picture: Tensor) -> NDArray[np.uint8]:
    """Return a picture as (rows, columns, RGB)."""
    return (
        (picture.expand(3, -1, -1).clamp(0, 1) * 255)
        .round()
        .to(torch.uint8)
        .permute(2, 1, 0)
        .contiguous()
        .numpy()
    )


def _save(picture: Tensor, path: Path) -> None:
    Image.fromarray(_pixels(picture)).save(path, optimize=True)
