"""Warp a volume by a key: a smooth, invertible deformation that the key alone decides."""

from typing import NamedTuple

import torch
from torch import Tensor

from polyclinic.imaging import deformation
from polyclinic_strategies.proxy.generator import (
    STRANGER_MM,
    VELOCITY_MM,
    RandomField,
    Shape,
    displace,
    draw_keys,
    draw_seed,
)


class Warped(NamedTuple):
    """A warped volume, and the way back.

    Attributes:
        image: (C, H, W, D), the volume at x + ddf(x).
        ddf: (3, H, W, D), displacement in voxels; see `polyclinic.imaging.deformation`.
        inverse: (3, H, W, D), displacement that undoes `ddf`.
    """

    image: Tensor
    ddf: Tensor
    inverse: Tensor


def warp(
    image: Tensor,
    key: int | None = None,
    *,
    spacing_mm: float = 1.0,
    strength_mm: float = STRANGER_MM,
    mode: deformation.Mode = "bilinear",
) -> Warped:
    """Warp a volume by a random deformation that a key decides.

    The same key and shape give the same deformation, so image and label map can be warped alike.
    It moves everything smoothly and folds nothing while it is not too strong. It does not hide who
    a patient is: for that, a generator takes away what is the patient's own. See
    docs/explanation/proxy.md.

    Example:
        ```python
        warped = polyclinic.warp(scan, key=7, spacing_mm=2.0)
        labels = polyclinic.warp(label_map, key=7, spacing_mm=2.0, mode="nearest").image
        ```

    Args:
        image: (C, H, W, D), of any floating type.
        key: Seed of the deformation; one from the operating system's randomness if not given.
        spacing_mm: Size of a voxel along every axis.
        strength_mm: Root mean square of the velocity; that of the displacement is a little less.
        mode: "bilinear" for images, "nearest" for label maps.

    Returns:
        The warped volume, the displacement and its inverse.

    Raises:
        ValueError: `image` has another shape, or a size is not positive.
    """
    if image.ndim != 4 or min(spacing_mm, strength_mm) <= 0:
        raise ValueError(
            f"an image of shape {tuple(image.shape)}, voxels of {spacing_mm} mm, {strength_mm} mm: "
            "the shape is (C, H, W, D), and both sizes are above 0"
        )
    height, width, depth = image.shape[1:]
    shape: Shape = (height, width, depth)
    coarse = [max(1, min(size, round(size * spacing_mm / VELOCITY_MM))) for size in shape]
    generator = torch.Generator().manual_seed(draw_seed() if key is None else key)
    keys = draw_keys(1, (coarse[0], coarse[1], coarse[2]), generator)
    velocity = RandomField(strength_mm)(image, keys).to(image)
    ddf, inverse = displace(velocity, shape), displace(-velocity, shape)
    return Warped(deformation.warp(image[None], ddf, mode)[0], ddf[0], inverse[0])
