"""Foreground masks: which voxels show the patient, and which show air."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

EMPTY = 0.05  # from this share of voxels that are exactly 0, the image counts as masked
DARK = 0.2  # share of the range of intensities: a border darker than this is air
ABOVE = 0.12  # share of the range: what is brighter than air by this much is the patient
CLOSED = 2  # voxels: holes up to twice as wide, for example a dark ventricle, are filled


def foreground(image: Float[Tensor, "channels *places"]) -> Bool[Tensor, "*places"]:
    """Find the voxels that show the patient.

    - A masked image is exactly 0 around the patient.
    - A scanner's image holds noise there. If the border of the image is dark, everything that is
      clearly brighter is foreground, including the holes in it.
    - An image without a dark border, for example a photograph, is all foreground.

    Args:
        image: Channels, and two or three spatial axes. The last may have length 1, for one slice or
            one photograph.

    Returns:
        True inside the patient; the spatial shape of `image`.
    """
    lit = (image != 0).any(0)
    if not bool(lit.any()):
        return torch.ones_like(lit)
    if float((~lit).float().mean()) > EMPTY:
        return lit
    brightness = image.mean(0)
    flat = brightness.flatten()
    few = flat[:: max(1, len(flat) // 20_000)].float()
    low, high = (float(torch.quantile(few, share)) for share in (0.01, 0.99))
    if high <= low:  # all alike, or a single voxel
        return torch.ones_like(lit)
    air = float(torch.cat([face.flatten() for face in _faces(brightness)]).median())
    if air - low > DARK * (high - low):
        return torch.ones_like(lit)
    found = _close(brightness > air + ABOVE * (high - air))
    return found if bool(found.any()) else torch.ones_like(lit)


def _faces(brightness: Tensor) -> list[Tensor]:
    """Return the outermost voxels along each axis that has more than one."""
    return [
        brightness.select(axis, place)
        for axis in range(brightness.ndim)
        for place in (0, -1)
        if brightness.shape[axis] > 1
    ]


def _close(found: Bool[Tensor, "*places"]) -> Bool[Tensor, "*places"]:
    """Close a mask morphologically (grow, then shrink), which fills holes."""
    pool = functional.max_pool2d if found.ndim == 2 else functional.max_pool3d
    size = tuple(2 * CLOSED + 1 if length > 1 else 1 for length in found.shape)
    around = tuple(each // 2 for each in size)
    grown = pool(found[None, None].float(), size, stride=1, padding=around)
    filled = 1 - pool(1 - grown, size, stride=1, padding=around)
    return filled[0, 0] > 0.5
