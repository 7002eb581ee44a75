"""Teachers: encoders that hospitals trained for their own tasks, and statistics of images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from polyclinic.config.release import Release
from polyclinic.config.schemas import DataConfig
from polyclinic.describing.statistics import by_subject
from polyclinic.errors import ModelInvalid
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.universal.networks.encoders import average
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.networks.probing import embeddings

MEAN, COVARIANCE = "embedding.mean", "embedding.covariance"


@dataclass(frozen=True, eq=False)
class Teacher:
    """One hospital's encoder.

    Attributes:
        site: The hospital.
        encoder: Its encoder's tensors, `encoder.*`.
        statistics: Mean and covariance of the average features of its training images.
        num_examples: Number of these images.
        task: Task that the encoder was trained for, in words.
    """

    site: str
    encoder: StateDict
    statistics: StateDict
    num_examples: int
    task: str


def feature_statistics(
    network: UniversalNetwork,
    images: Iterable[Tensor],
    subjects: Sequence[int],
    data: DataConfig,
    release: Release,
) -> StateDict:
    """Compute mean and covariance of the images' average features, by the hospital's own encoder.

    Every subject counts alike: it gives the mean of its images, and the mean of their squared
    deviations from all subjects' mean. So the covariance is that of images, on which teachers are
    asked, and not the smaller one of subjects' means; and what leaves is an average over subjects.

    Args:
        network: The hospital's, trained.
        images: Its prepared training images, float32, CXYZ.
        subjects: Number of each image's subject.
        data: Patch and channels.
        release: Says over how many subjects.

    Returns:
        `embedding.mean`, (numbers,), and `embedding.covariance`, (numbers, numbers); float32.

    Raises:
        TooFewSubjects: Fewer than `release` asks for, or than two.
    """
    replace(release, min_subjects=max(2, release.min_subjects)).check_subjects(len(set(subjects)))
    found = embeddings(network, images, data, average).double()
    count = len(set(subjects))
    mean = torch.stack(by_subject(list(found), subjects)).mean(0)
    each = torch.bincount(torch.tensor(subjects))[torch.tensor(subjects)]  # images of its subject
    centred = (found - mean) / each.sqrt()[:, None]
    return {MEAN: mean.float(), COVARIANCE: (centred.T @ centred / (count - 1)).float()}


def check_statistics(teacher: Teacher, numbers: int) -> None:
    """Check that a hospital's statistics are those of an embedding.

    Raises:
        ModelInvalid: They are missing, or of another size.
    """
    shapes = {
        name: tuple(teacher.statistics[name].shape)
        for name in (MEAN, COVARIANCE)
        if name in teacher.statistics
    }
    if shapes != {MEAN: (numbers,), COVARIANCE: (numbers, numbers)}:
        raise ModelInvalid(
            f"{teacher.site}: its statistics {shapes} are not those of embeddings of {numbers} "
            "numbers."
        )


def distances(teacher: Teacher, rows: Float[Tensor, "images numbers"]) -> Float[Tensor, " images"]:
    """Compute squared Mahalanobis distances of images from those that a teacher was trained on.

    On the teacher's own images they are about 1; Lee et al. 2018, https://arxiv.org/abs/1807.03888.
    The fewer images it had, the more its
    correlations are held back: few images leave directions out, and without that its own unseen
    images would count as strangers.

    Args:
        teacher: Whose statistics count.
        rows: Average features by the teacher's encoder (`average`).
    """
    covariance = teacher.statistics[COVARIANCE].double()
    scale = covariance.diagonal().clamp_min(1e-12).sqrt()
    correlation = (covariance / scale / scale[:, None]).clamp(-1, 1)
    values, axes = torch.linalg.eigh((correlation + correlation.T) / 2)
    values = values.clamp_min(0)  # whatever a hospital sends, a distance is a distance
    shrinkage = len(values) / (len(values) + teacher.num_examples)  # towards no correlation at all
    spread = (1 - shrinkage) * values + shrinkage
    usual = (values / spread).sum().clamp_min(1e-12)  # the expected distance of its own images
    along = ((rows.double() - teacher.statistics[MEAN].double()) / scale) @ axes
    found: Tensor = (along.square() / spread).sum(1) / usual
    return found.float()
