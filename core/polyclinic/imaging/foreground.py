"""Which voxels show the patient, and which show air."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

EMPTY = 0.05  # as many voxels that are exactly 0 are air that somebody has masked
DARK = 0.2  # of the range of intensities: a border darker than this is air
ABOVE = 0.12  # of the range: what is so much brighter than air is the patient
CLOSED = 2  # voxels: holes up to twice as wide are the patient's, a dark ventricle for instance


def foreground(image: Float[Tensor, "channels *places"]) -> Bool[Tensor, "*places"]:
    """Where the patient is.

    Masked images are exactly 0 around the patient. A scanner's own images hold noise there: if the
    border of the image is dark, whatever is clearly brighter counts, with the holes in it. An image
    without a dark border, a photograph for instance, is all foreground.

    Args:
        image: Two or three axes of places; of one slice or one photograph, the last may be of
            length 1.
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
    """The outermost voxels along each axis that has more than one."""
    return [
        brightness.select(axis, place)
        for axis in range(brightness.ndim)
        for place in (0, -1)
        if brightness.shape[axis] > 1
    ]


def _close(found: Bool[Tensor, "*places"]) -> Bool[Tensor, "*places"]:
    """Grown and shrunk again, which fills holes."""
    pool = functional.max_pool2d if found.ndim == 2 else functional.max_pool3d
    size = tuple(2 * CLOSED + 1 if length > 1 else 1 for length in found.shape)
    around = tuple(each // 2 for each in size)
    grown = pool(found[None, None].float(), size, stride=1, padding=around)
    filled = 1 - pool(1 - grown, size, stride=1, padding=around)
    return filled[0, 0] > 0.5
