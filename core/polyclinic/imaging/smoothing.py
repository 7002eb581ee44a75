"""Differentiable Gaussian smoothing of fields."""

import torch
from torch import Tensor
from torch.nn import functional

_REACH = 3.0  # sigmas


def smooth(field: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian along every axis; the border is replicated.

    Args:
        field: (B, C, H, W, D).
        sigma: Standard deviation in voxels; 0 changes nothing.

    Raises:
        ValueError: `sigma` is negative, or `field` is not 3-D.
    """
    if sigma < 0 or field.ndim != 5:
        raise ValueError(
            f"sigma {sigma} of a field of shape {tuple(field.shape)}: it must be at least 0, and "
            "the shape (B, C, H, W, D)"
        )
    if sigma == 0:
        return field
    reach = int(_REACH * sigma + 0.5)
    places = torch.arange(-reach, reach + 1, dtype=field.dtype, device=field.device)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    channels = field.shape[1]
    for axis in range(3):
        shape, padding = [1, 1, 1], [0] * 6
        shape[axis] = len(kernel)
        padding[4 - 2 * axis] = padding[5 - 2 * axis] = reach
        weight = kernel.view(1, 1, *shape).expand(channels, -1, -1, -1, -1)
        field = functional.conv3d(
            functional.pad(field, padding, mode="replicate"), weight, groups=channels
        )
    return field
