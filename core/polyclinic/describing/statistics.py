"""Statistics of a hospital's images, and a hospital's description by them.

A description holds, for each statistic, the mean over the hospital's subjects of a bounded vector of
each subject. Whatever the statistic, a subject counts once, its vector is at most 1 long, and only the
mean over enough subjects leaves the hospital: the same clipping, noise and audit serve all of them.

A package offers a statistic by an entry point of the group `polyclinic.statistics`, whose value is a
class that is made without arguments.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyclinic.config.release import Release
from polyclinic.errors import UnknownName
from polyclinic.learning.modes import training_mode
from polyclinic.learning.state_dict import StateDict
from polyclinic.system.plugins import STATISTICS, offered

DESCRIPTION = "site/"  # before a statistic's name among the statistics of a contribution


@runtime_checkable
class Statistic(Protocol):
    """One way to describe a hospital's images; the class's docstring says what it reveals.

    Example:
        ```python
        class Brightness:
            needs_network: ClassVar[bool] = False

            def measure(self, image, network):
                return image[image != 0].mean().clamp(-1, 1).reshape(1)

            def distance(self, one, other):
                return float((one - other).abs())
        ```

    Attributes:
        needs_network: Whether it is made of the base's features, not of the image alone.
    """

    needs_network: ClassVar[bool]

    def measure(
        self, image: Float[Tensor, "channels x y z"], network: nn.Module
    ) -> Float[Tensor, " numbers"]:
        """Compute one subject's vector, at most 1 long.

        Args:
            image: On the network's grid, after the intensity transforms; what is exactly 0 in all
                channels is air.
            network: Base that every hospital has, in evaluation mode; 2-D networks read axial
                slices.
        """
        ...

    def distance(self, one: Float[Tensor, " numbers"], other: Float[Tensor, " numbers"]) -> float:
        """Compute how far two hospitals' means are from each other, at least 0."""
        ...


@cache
def statistics() -> Mapping[str, Statistic]:
    """Make every installed statistic once, and list them by name."""
    return {name: entry.load()() for name, entry in sorted(offered(STATISTICS).items())}


def statistic_named(name: str) -> Statistic:
    """Find an installed statistic.

    Raises:
        UnknownName: There is none of that name.
    """
    try:
        return statistics()[name]
    except KeyError:
        raise UnknownName("statistic", name[:80], list(statistics())) from None


def describe(
    names: Sequence[str], images: Iterable[Tensor], network: nn.Module, release: Release
) -> StateDict:
    """Describe a hospital's images.

    Args:
        names: Names of installed statistics.
        images: One for each subject, float32, CXYZ; read once. Labels play no part.
        network: Base that every hospital has; left as it was.
        release: What may leave the hospital.

    Returns:
        Name to mean vector, float32.

    Raises:
        TooFewSubjects: Fewer than `release` asks for.
        UnknownName: There is no such statistic; no image is read then.
    """
    wanted = {name: statistic_named(name) for name in names}
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    with training_mode(network, train=False), torch.inference_mode():
        for image in images:
            for name, statistic in wanted.items():
                rows[name].append(statistic.measure(image, network).float().cpu())
    return {name: release.mean(vectors) for name, vectors in rows.items()}
