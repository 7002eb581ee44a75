"""Random views of images: mirrored, shifted a little, brighter and darker."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

SHIFT = 0.08  # of the image's size, at most
GAIN, OFFSET = 0.2, 0.1


def view(
    images: Float[Tensor, "batch channels *size"], generator: torch.Generator
) -> Float[Tensor, "batch channels *size"]:
    """Make another view of every image; what leaves it at a border comes back at the other side.

    Args:
        images: About -1 to 1.
        generator: On the CPU.
    """
    found = []
    for image in images:
        axes = list(range(1, image.ndim))
        mirrored = [axis for axis in axes if torch.rand((), generator=generator) < 0.5]
        moves = [
            int((2 * torch.rand((), generator=generator) - 1) * SHIFT * image.shape[axis])
            for axis in axes
        ]
        gain, offset = (2 * torch.rand(2, generator=generator) - 1).tolist()
        found.append(image.flip(mirrored).roll(moves, axes) * (1 + GAIN * gain) + OFFSET * offset)
    return torch.stack(found)


def batches(
    count: int, size: int, steps: int, seed: int, done: int = 0
) -> Iterator[tuple[int, Tensor, torch.Generator]]:
    """Yield for every step its number, its images, and what randomness it may use.

    Each depends on seed and number alone, so that work can be resumed.

    Args:
        count: Number of images.
        size: Size of a batch; all images if there are fewer.
        steps: Number of all steps.
        seed: Another seed gives other batches.
        done: Number of steps that are done already.
    """
    for step in range(done + 1, steps + 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        yield step, torch.randperm(count, generator=generator)[:size], generator
