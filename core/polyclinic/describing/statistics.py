"""A hospital's description: for each statistic, the mean over its subjects of a bounded vector of each subject.

Whatever the statistic, the same three things hold: a subject counts once, its vector is at most 1 long, and only the mean over enough
subjects leaves the hospital. So the same clipping, the same noise and the same audit serve all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyclinic.config.release import Release
from polyclinic.describing.average_image import AverageImage
from polyclinic.describing.channel_gaussians import ChannelGaussians
from polyclinic.describing.correlation import Correlation
from polyclinic.describing.early_features import EarlyFeatures
from polyclinic.describing.histogram import Histogram
from polyclinic.learning.modes import training_mode
from polyclinic.learning.state_dict import StateDict


class Statistic(Protocol):
    """One way to describe a hospital's images; what it reveals stands in the docstring of its class."""

    needs_network: ClassVar[bool]  # it is made of the base's features, not of the image alone

    def measure(
        self, image: Float[Tensor, "channels x y z"], network: nn.Module
    ) -> Float[Tensor, " numbers"]:
        """One subject's vector, at most 1 long.

        Args:
            image: On the network's grid, after the intensity transforms; what is exactly 0 in all channels is air.
            network: The base that everybody has, in evaluation mode; 2-D networks read axial slices.
        """
        ...

    def distance(self, one: Float[Tensor, " numbers"], other: Float[Tensor, " numbers"]) -> float:
        """How far two hospitals' means are from each other, at least 0."""
        ...


STATISTICS: Mapping[str, Statistic] = {
    "average_image": AverageImage(),
    "channel_gaussians": ChannelGaussians(),
    "correlation": Correlation(),
    "early_features": EarlyFeatures(),
    "histogram": Histogram(),
}


def describe(
    names: Sequence[str], images: Iterable[Tensor], network: nn.Module, release: Release
) -> StateDict:
    """A hospital's description.

    Args:
        names: Of `STATISTICS`.
        images: One for each subject, float32, CXYZ; read once. Labels play no part.
        network: The base; left as it was.
        release: What may leave the hospital.

    Returns:
        Name to mean vector, float32.

    Raises:
        TooFewSubjects: Fewer than `release` asks for.
        KeyError: There is no such statistic.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    with training_mode(network, train=False), torch.inference_mode():
        for image in images:
            for name in names:
                rows[name].append(STATISTICS[name].measure(image, network).float().cpu())
    return {name: release.mean(vectors) for name, vectors in rows.items()}
