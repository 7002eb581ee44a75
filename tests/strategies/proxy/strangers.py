"""Small made-up people: canonical scans of blobs, whose places are the person's own, at three
resolutions, with labels.
"""

import torch
from torch import Tensor
from torch.nn import functional

from polyclinic.imaging.deformation import identity
from polyclinic_strategies.proxy.cases import CanonicalCase, label_shares
from polyclinic_strategies.proxy.generator import Shape

COARSE: Shape = (16, 16, 16)
CLASSES = 3


def blobs(person: int, visit: int, shape: Shape, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    """Make an image in [0, 1] and its labels.

    A large ball, and in it a bright one at the person's own place.
    """
    size = shape[0]
    generator = torch.Generator().manual_seed(1000 + person)
    places = identity(shape)[0] + 0.5
    middle = torch.full((3, 1, 1, 1), size / 2)
    own = middle + apart * (torch.rand(3, 1, 1, 1, generator=generator) - 0.5) * size * 0.28
    drift = (
        torch.randn(3, 1, 1, 1, generator=torch.Generator().manual_seed(31 * person + visit))
        * size
        * 0.01
    )
    head = ((places - middle).norm(dim=0) < size * 0.42).long()
    labels = torch.where((places - own - drift).norm(dim=0) < size * 0.16, 2, head) * head
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(77 * person + visit + 1))
    return ((0.45 * labels + 0.02 * noise) * head).clamp(0, 1), labels


def case(person: int, visit: int, finer: int = 1, apart: float = 1.0) -> CanonicalCase:
    """Make a scan whose finest grid has `finer` times the voxels of the coarse one."""
    size = finer * COARSE[0]
    image, labels = blobs(person, visit, (size, size, size), apart)
    middle = functional.interpolate(
        image[None, None], size=[2 * each for each in COARSE], mode="trilinear"
    )[0]
    return CanonicalCase(
        f"p{person}",
        middle.half(),
        (image * 255).round().to(torch.uint8),
        labels.to(torch.uint8),
        label_shares(labels, CLASSES, finer),
    )


def cases(
    people: int, visits: int = 2, finer: int = 1, apart: float = 1.0, first: int = 0
) -> list[CanonicalCase]:
    return [
        case(first + person, visit, finer, apart)
        for person in range(people)
        for visit in range(visits)
    ]
