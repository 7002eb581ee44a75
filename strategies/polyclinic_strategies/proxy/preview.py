"""Picture of what the deformation proxy did, for the people at the hospital; it stays there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from polyclinic.imaging.grids import resample
from polyclinic.imaging.headers import Grid
from polyclinic.imaging.pictures import label_colours, overlay, slice_grid, window

PANEL_PIXELS = 300  # the longer side of a slice
GAP = 16
PANELS = 4  # a fifth is added if the unwarped image is given
BRIGHTER, DARKER = "#FF6A5A", "#7C83FF"  # not among the labels' colours
_GAIN = 1.5  # factor of the difference, so that two thirds have the full colour
_STAYS, _LEAVES = "#00664B", "#B04A00"
_INK, _PAPER = "#222222", "#FFFFFF"
_TITLE, _TEXT = 17, 14  # size of the letters
_LINE = 23
_SWATCH = 14


@dataclass(frozen=True, eq=False)
class _Panel:
    title: str
    note: str
    leaves: bool  # whether its content leaves the hospital
    picture: Tensor  # RGB, (3, columns, rows)


def write_preview(
    path: Path,
    original: MetaTensor,
    proxy: NDArray[np.uint8],
    answer: NDArray[np.uint8],
    label_map: NDArray[np.uint8],
    labels: tuple[str, ...],
    canonical: NDArray[np.uint8] | None = None,
    change: str = "",
) -> None:
    """Write one PNG with the original, the proxy, the answer on both, and the change by the warp.

    Args:
        path: A .png file; its folder is made if need be.
        original: CXYZ, with its affine; its first channel is drawn.
        proxy: (H, W, D), as it was sent; its axes run to the right, the front and up.
        answer: (H, W, D), labels; or (classes - 1, H, W, D), probabilities of all but the
            background, 255 for 1.
        label_map: XYZ, the answer on the original's grid.
        labels: Names of the classes, the background first.
        canonical: (H, W, D), the proxy before it was warped; without it, the change is not drawn.
        change: How far the proxy is from the scan, in words; written below the pictures.

    Raises:
        ValueError: The arrays do not fit each other.
    """
    volume = original.as_subclass(Tensor)[:1].float()  # without MONAI's record of transforms
    x, y, z = volume.shape[1:]
    native = Grid((x, y, z), np.asarray(original.affine, dtype=np.float64))
    height, width, depth = proxy.shape
    frame = Grid((height, width, depth), np.eye(4))
    answered = _labels_of(answer)
    others = [answered] if canonical is None else [answered, canonical]
    if label_map.shape != native.shape or any(each.shape != frame.shape for each in others):
        shapes = ", ".join(str(each.shape) for each in (proxy, *others, label_map))
        raise ValueError(
            f"a preview needs arrays on the proxy's and on the original's grid ({native.shape}), "
            f"these have {shapes}"
        )
    found, warped = (
        torch.from_numpy(np.ascontiguousarray(each[None], dtype=np.int32))
        for each in (label_map, answered)
    )
    plane, level = slice_grid(native, found, PANEL_PIXELS), slice_grid(frame, warped, PANEL_PIXELS)
    grey = window(_cut(volume, native, plane), volume[0])
    sent = _cut(_as_volume(proxy), frame, level) / 255
    on_proxy = overlay(sent, _cut(warped, frame, level, nearest=True))
    on_original = overlay(grey, _cut(found, native, plane, nearest=True))
    panels = [
        _Panel("Original", "stays at the hospital", False, _rgb(grey)),
        _Panel("Proxy", "all that leaves the hospital", True, _rgb(sent)),
        _Panel("Answer on the proxy", "what comes back", True, on_proxy),
        _Panel("Answer on the original", "unwarped at the hospital", False, on_original),
    ]
    if canonical is not None:
        colours = _two_colours(sent - _cut(_as_volume(canonical), frame, level) / 255)
        panels.append(_Panel("What the warp changed", "proxy against unwarped", False, colours))
    path.parent.mkdir(parents=True, exist_ok=True)
    _compose(panels, labels, change).save(path, optimize=True)


def _labels_of(answer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the most probable label; 0 where the background is at least as probable."""
    if answer.ndim == 3:
        return answer
    best = answer.max(0)
    background = 255 - answer.sum(0, dtype=np.int32)
    return np.where(best > background, answer.argmax(0) + 1, 0).astype(np.uint8)


def _as_volume(array: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))[None]


def _cut(volume: Tensor, grid: Grid, plane: Grid, *, nearest: bool = False) -> Tensor:
    """Return one slice, (columns, rows)."""
    return resample(volume, grid, plane, nearest=nearest)[0, :, :, 0]


def _rgb(grey: Tensor) -> Tensor:
    return grey.clamp(0, 1).expand(3, *grey.shape)


def _two_colours(change: Tensor) -> Tensor:
    """Colour a change; black where there is none."""
    strength = (change.abs() * _GAIN).clamp(0, 1)
    brighter, darker = (
        torch.tensor(_numbers(colour)).view(3, 1, 1) / 255 for colour in (BRIGHTER, DARKER)
    )
    return torch.where(change > 0, brighter, darker) * strength


def _numbers(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def _compose(panels: Sequence[_Panel], labels: tuple[str, ...], change: str) -> Any:
    """Draw titles, slices and a legend on white paper."""
    widths = [max(panel.picture.shape[1], PANEL_PIXELS * 9 // 10) for panel in panels]
    height = max(panel.picture.shape[2] for panel in panels)
    top = GAP + 2 * _LINE + 4
    below = (2 if change else 1) * _LINE  # legend, and how far the proxy is from the scan
    size = sum(widths) + GAP * (len(panels) + 1), top + height + GAP + below + GAP // 2
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    title, text = ImageFont.load_default(_TITLE), ImageFont.load_default(_TEXT)
    left = GAP
    for panel, width in zip(panels, widths, strict=True):
        draw.text((left, GAP - 4), panel.title, fill=_INK, font=title)
        colour = _LEAVES if panel.leaves else _STAYS
        draw.text((left, GAP - 2 + _LINE), panel.note, fill=colour, font=text)
        draw.rectangle((left, top, left + width - 1, top + height - 1), fill="#000000")
        columns, rows = panel.picture.shape[1:]
        scaled = (panel.picture.clamp(0, 1) * 255).round().to(torch.uint8)
        pixels = Image.fromarray(scaled.permute(2, 1, 0).contiguous().numpy())
        sheet.paste(pixels, (left + (width - columns) // 2, top + (height - rows) // 2))
        left += width + GAP
    foot = top + height + GAP
    _draw_legend(draw, text, label_colours(labels), (GAP, foot))
    if len(panels) > PANELS:
        changes = {"brighter": BRIGHTER, "darker": DARKER}
        _draw_legend(draw, text, changes, (left - widths[-1] - GAP, foot))
    if change:
        left = size[0] - GAP - int(draw.textlength(change, font=text))
        draw.text((left, foot + _LINE), change, fill=_INK, font=text)
    return sheet


def _draw_legend(draw: Any, font: Any, entries: Mapping[str, str], place: tuple[int, int]) -> None:
    left, top = place
    for name, colour in entries.items():
        draw.rectangle((left, top + 2, left + _SWATCH, top + 2 + _SWATCH), fill=colour)
        left += _SWATCH + 7
        draw.text((left, top), name, fill=_INK, font=font)
        left += int(draw.textlength(name, font=font)) + 22
