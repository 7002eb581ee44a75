"""Normalization of intensities, channel by channel, as a plan says it.

`z_score`: mean 0 and deviation 1 of one image's channel, over what is not exactly 0; what is
exactly 0, the air of a masked image, stays 0. `ct`: Hounsfield units mean the same everywhere, so
they are clipped to the federation's percentiles 0.5 and 99.5 within the foreground, and scaled by
its mean and deviation there.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z.
"""

import torch
from jaxtyping import Float
from monai.transforms import NormalizeIntensity
from torch import Tensor

from polyclinic.config.schemas import DataConfig

FIGURES = 4  # of a channel in `data.foreground`: low, high, mean, deviation
_z_score = NormalizeIntensity(nonzero=True)


def normalize(
    image: Float[Tensor, "channels *places"], data: DataConfig
) -> Float[Tensor, "channels *places"]:
    """Normalize an image as `data.normalization` says; an empty one changes nothing.

    Args:
        image: float32, left unchanged.
        data: `normalization` has an entry for each channel, or one for all; `foreground` has four
            numbers for each channel wherever one is `ct`.
    """
    if not data.normalization:
        return image
    count = len(image)
    kinds = data.normalization * (count if len(data.normalization) == 1 else 1)
    found = []
    for place, (channel, kind) in enumerate(zip(image, kinds, strict=True)):
        if kind == "z_score":
            found.append(torch.as_tensor(_z_score(channel[None])[0]).as_subclass(Tensor))
        else:
            low, high, mean, deviation = data.foreground[FIGURES * place : FIGURES * (place + 1)]
            found.append((channel.clamp(low, high) - mean) / deviation)
    return torch.stack(found)
