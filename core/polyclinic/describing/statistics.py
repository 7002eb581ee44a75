"""Statistics of a hospital's images, and a hospital's description by them.

A description holds, for each statistic, the mean over the hospital's subjects of a bounded vector
of each subject. A subject counts once, its vector is at most 1 long, and only the mean over enough
subjects leaves the hospital. So the same clipping, noise and audit serve all statistics.

A package offers a statistic by an entry point of the group `polyclinic.statistics`, whose value is
a class that is made without arguments.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyclinic.config.release import Release
from polyclinic.describing.checks import check_distance, check_vector, make_statistic
from polyclinic.describing.uncertainty import VARIANCE, error_name, variance_of_mean
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
        # the share of the image that shows the patient
        class Extent:
            needs_network: ClassVar[bool] = False

            def measure(self, image, network):
                return foreground(image).float().mean().reshape(1)

            def distance(self, one, other):
                return float((one - other).abs().sum())
        ```

    Attributes:
        needs_network: Whether it is made of the base's features, not of the image alone.
        euclidean: Optional; whether its distance is the Euclidean one, so that it can be corrected
            for the number of subjects, see `uncertainty`.
    """

    needs_network: ClassVar[bool]

    def measure(
        self, image: Float[Tensor, "channels x y z"], network: nn.Module
    ) -> Float[Tensor, " numbers"]:
        """Compute one subject's vector, at most 1 long.

        It is called without gradients.

        Args:
            image: The whole image on the network's grid, float32, on the CPU, after the intensity
                transforms of `conf/data`: by default each channel has mean 0 and
                standard deviation 1 where it is not 0. What is exactly 0 in all channels is air.
                `polyclinic.imaging.foreground.foreground` finds the patient.
            network: Base that every hospital has, in evaluation mode; 2-D networks read axial
                slices.

        Returns:
            Floating-point, finite, not empty, and of the same length for every subject.
        """
        ...

    def distance(self, one: Float[Tensor, " numbers"], other: Float[Tensor, " numbers"]) -> float:
        """Compute how far two hospitals' means are from each other: finite, at least 0."""
        ...


def statistic_names() -> list[str]:
    """List the names of the installed statistics; none is imported."""
    return sorted(offered(STATISTICS))


def statistics() -> Mapping[str, Statistic]:
    """Make every installed statistic once, and list them by name.

    Raises:
        StatisticInvalid: One of them cannot be made, or lacks a part.
    """
    return {name: statistic_named(name) for name in statistic_names()}


@cache
def statistic_named(name: str) -> Statistic:
    """Find an installed statistic, and make it once; others are not imported.

    Raises:
        UnknownName: There is none of that name.
        StatisticInvalid: It cannot be made, or lacks a part.
    """
    if name not in offered(STATISTICS):
        raise UnknownName("statistic", name[:80], statistic_names())
    made: Statistic = make_statistic(offered(STATISTICS)[name])
    return made


def measure_distance(
    name: str, one: Float[Tensor, " numbers"], other: Float[Tensor, " numbers"]
) -> float:
    """Measure how far two hospitals' means are from each other.

    Raises:
        StatisticInvalid: The statistic failed, or what it returned is no distance.
    """
    return check_distance(name, partial(statistic_named(name).distance, one, other))


def describe(
    names: Sequence[str],
    images: Iterable[Tensor],
    subjects: Sequence[int],
    network: nn.Module,
    release: Release,
) -> StateDict:
    """Describe a hospital's images.

    Args:
        names: Names of installed statistics; NAME.variance asks for the variance of the mean of
            one of them, see `uncertainty`.
        images: Float32, CXYZ; read once. Labels play no part.
        subjects: Number of each image's subject; images of one subject are averaged first.
        network: Base that every hospital has; left as it was.
        release: What may leave the hospital.

    Returns:
        Name to mean vector, float32, at most 1 long; to one number for a variance.

    Raises:
        TooFewSubjects: Fewer than `release` asks for; no image is read then.
        UnknownName: There is no such statistic; no image is read then.
        StatisticInvalid: A statistic failed, or returned something else than vectors of one length.
    """
    kinds = [name for name in names if not name.endswith(VARIANCE)]
    for name in kinds:
        statistic_named(name)
    if names:
        release.check_subjects(len(set(subjects)))
    rows = measure_images(kinds, images, network)
    found: StateDict = {}
    for name, each in rows.items():
        found |= release_rows(name, by_subject(each, subjects), release, error_name(name) in names)
    return found


def measure_images(
    names: Sequence[str], images: Iterable[Tensor], network: nn.Module
) -> dict[str, list[Tensor]]:
    """Compute one vector of each image by each statistic; they stay at the hospital.

    Raises:
        UnknownName: There is no such statistic.
        StatisticInvalid: A statistic failed, or returned something else than vectors of one length.
    """
    wanted = {name: statistic_named(name) for name in names}
    rows: dict[str, list[Tensor]] = {name: [] for name in wanted}
    with training_mode(network, train=False), torch.inference_mode():
        for image in images:
            for name, statistic in wanted.items():
                length = len(rows[name][0]) if rows[name] else None
                measure = partial(statistic.measure, image, network)
                rows[name].append(check_vector(name, measure, length))
    return rows


def release_rows(
    name: str, rows: Sequence[Tensor], release: Release, with_variance: bool
) -> StateDict:
    """Make what may leave of the subjects' vectors: their mean, and its variance if wanted.

    A noisy mean is brought back to a length that means have: nearer to the mean without noise.

    Raises:
        TooFewSubjects: Fewer than the release asks for.
    """
    mean = release.mean(rows)
    noisy = release.noise_multiplier > 0
    length = float(torch.linalg.vector_norm(mean, dtype=torch.float64)) if noisy else 1.0
    found = {name: mean / max(1.0, length) if noisy else mean}
    if with_variance:
        found[error_name(name)] = variance_of_mean(rows, mean, release) / max(1.0, length) ** 2
    return found


def with_variances(names: Sequence[str]) -> list[str]:
    """Return the names, and those of the variances by which their distances are corrected.

    A statistic has one if it says of its distance that it is Euclidean, `euclidean = True`: only
    then does the variance of a mean say by how much its distances are too large.
    """
    corrected = [name for name in names if getattr(statistic_named(name), "euclidean", False)]
    return [*names, *map(error_name, corrected)]


def by_subject(rows: Sequence[Tensor], subjects: Sequence[int]) -> list[Tensor]:
    """Average the rows of each subject, whose number is given for each row."""
    found: dict[int, list[Tensor]] = {}
    for row, subject in zip(rows, subjects, strict=True):
        found.setdefault(subject, []).append(row)
    return [torch.stack(each).mean(0) if len(each) > 1 else each[0] for each in found.values()]
