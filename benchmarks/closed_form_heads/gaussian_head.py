"""pFedFDA: a hospital's own head from Gaussians between its features and everybody's.

McLaughlin and Su, NeurIPS 2024, https://arxiv.org/abs/2411.00329.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from polyclinic.errors import ConfigError
from polyclinic_strategies.merging.arithmetic.layer import require

from .moments import HeadMoments, moments_of

SHARES = tuple(number / 10 for number in range(11))
# chosen on validation images of three laboratories, 1,280 features of 59 to 202 cases
SHRINKAGE = 0.5
ABSENT = -1e9  # bias of a class without an example: never the largest, and float32 holds it
Head = tuple[Float64[Tensor, "classes features"], Float64[Tensor, " classes"]]  # weight and bias


def refined_head(
    own: HeadMoments,
    others: HeadMoments,
    share: float,
    *,
    shrinkage: float = SHRINKAGE,
    own_priors: bool = True,
) -> Head:
    """Return the Bayes-optimal head for Gaussian classes, between the hospital and the others.

    m_c = share m_c(own) + (1 - share) m_c(others), C likewise, shrunk to (1 - shrinkage) C +
    shrinkage tr(C)/d I; then logits_c = m_c C^-1 x - m_c C^-1 m_c / 2 + log prior_c. All classes
    have the one covariance C. A class that only one side has takes that side's mean. The paper
    averages the hospitals' covariances; a sum of moments also holds how far the means of hospitals
    lie apart, and these directions then count for less.

    Args:
        own: The hospital's moments.
        others: Sum of the others' moments.
        share: In [0, 1]; 0 gives the others' head, 1 the own. The paper calls it beta;
            `choose_share` finds it.
        shrinkage: In [0, 1]; above 0 if there are fewer examples than features.
        own_priors: Use this hospital's class frequencies, (n_c + 1) / (n + C); else all classes are
            equally frequent.

    Returns:
        Weight (classes, features) and bias (classes,).

    Raises:
        ConfigError: The covariance is singular.
        ValueError: The shapes differ, or `share` or `shrinkage` is out of range.
    """
    require(
        own.cross.shape == others.cross.shape,
        f"moments of shapes {tuple(own.cross.shape)} and {tuple(others.cross.shape)}.",
    )
    require(
        0 <= share <= 1 and 0 <= shrinkage <= 1,
        f"share={share}, shrinkage={shrinkage}: both from 0 to 1.",
    )
    shares = (
        torch.full_like(own.counts, share)
        .where(own.counts > 0, 0.0)
        .where((others.counts > 0) | (own.counts == 0), 1.0)[:, None]
    )
    means = shares * own.means + (1 - shares) * others.means
    covariance = share * _covariance(own) + (1 - share) * _covariance(others)
    level = covariance.diagonal().mean() * shrinkage
    factor, failed = torch.linalg.cholesky_ex(
        (1 - shrinkage) * covariance + level * torch.eye(len(covariance), dtype=covariance.dtype)
    )
    if int(failed):
        raise ConfigError(
            f"shrinkage={shrinkage:g}: too small, fewer examples than features. Set a larger one, "
            "up to 1."
        )
    weight = torch.cholesky_solve(means.T, factor).T
    counts = own.counts if own_priors else torch.zeros_like(own.counts)
    bias = ((counts + 1) / (counts.sum() + len(counts))).log() - (weight * means).sum(1) / 2
    told = (own.counts > 0) | (others.counts > 0)
    return weight * told[:, None], torch.where(told, bias, torch.full_like(bias, ABSENT))


def choose_share(
    features: Float64[Tensor, "cases features"],
    labels: Int64[Tensor, " cases"],
    others: HeadMoments,
    *,
    folds: int = 5,
    shares: Sequence[float] = SHARES,
    shrinkage: float = SHRINKAGE,
    own_priors: bool = True,
) -> float:
    """Choose the share that makes held-out cases most probable, by cross-validation.

    Only the share leaves the hospital.

    Args:
        features: The hospital's own, from `head_features`.
        labels: Their classes.
        others: Sum of the others' moments.
        folds: Number of folds, at least 2; each class is spread evenly over them.
        shares: Candidates; of equals, the first is chosen.
        shrinkage: As for `refined_head`.
        own_priors: As for `refined_head`.

    Raises:
        ValueError: Fewer than two folds or cases.
        ConfigError: As for `refined_head`.
    """
    require(
        folds >= 2 and len(labels) >= 2, f"{folds} folds of {len(labels)} cases: at least 2 of 2."
    )
    order = torch.argsort(labels, stable=True)
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % folds
    losses = torch.zeros(len(shares), dtype=torch.float64)
    for number in range(min(folds, len(labels))):
        held = fold == number
        own = moments_of(features[~held], labels[~held], others.cross.shape[1])
        for place, share in enumerate(shares):
            weight, bias = refined_head(
                own, others, share, shrinkage=shrinkage, own_priors=own_priors
            )
            losses[place] += nn.functional.cross_entropy(
                features[held] @ weight.T + bias, labels[held], reduction="sum"
            )
    return shares[int(losses.argmin())]


def _covariance(moments: HeadMoments) -> Float64[Tensor, "features features"]:
    """Return the unbiased covariance within classes: scatter / (n - number of classes present)."""
    free = moments.counts.sum() - (moments.counts > 0).sum()
    return moments.scatter / free.clamp_min(1.0)
