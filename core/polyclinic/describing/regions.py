"""Region of the patient in an image, by which images of different hospitals roughly match."""

import torch
from jaxtyping import Float
from torch import Tensor

from polyclinic.imaging.foreground import foreground


def crop_to_patient(image: Float[Tensor, "channels x y z"]) -> Float[Tensor, "channels _ _ _"]:
    """Cut out the smallest box around the patient, a substitute for registration."""
    found = foreground(image)
    box = []
    for axis in range(3):
        along = found.movedim(axis, 0).flatten(1).any(1).nonzero().flatten()
        box.append(slice(int(along[0]), int(along[-1]) + 1))
    return image[(slice(None), *box)]


def standardize(image: Float[Tensor, "channels x y z"]) -> Float[Tensor, "channels x y z"]:
    """Scale each channel to mean 0 and standard deviation 1 inside the patient, and to 0 outside.

    A channel that is constant inside becomes 0.
    """
    found = foreground(image)
    values = image[:, found].double()  # the float32 mean of a constant need not be that constant
    least = (1e-6 * values.abs().amax(1, keepdim=True)).clamp_min(1e-30)
    scaled = (values - values.mean(1, keepdim=True)) / values.std(
        1, unbiased=False, keepdim=True
    ).clamp_min(least)
    made = torch.zeros_like(image)
    made[:, found] = scaled.to(image.dtype)
    return made


def region_grid(image: Float[Tensor, "channels x y z"], size: int) -> tuple[int, int, int]:
    """Return `size` regions along each axis, but 1 along the axis that a photograph has not."""
    x, y, z = (size if length > 1 else 1 for length in image.shape[1:])
    return x, y, z
