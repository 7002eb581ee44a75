"""The Gaussian head between a hospital's own features and everybody's."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from benchmarks.closed_form_heads.gaussian_head import choose_share, refined_head
from benchmarks.closed_form_heads.moments import moments_of
from polyclinic.errors import ConfigError


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussians(
    count: int, seed: int, priors: Sequence[float] = (0.6, 0.3, 0.1)
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three classes with one covariance in five dimensions; their means and the covariance."""
    means, root = random(3, 5, seed=77) * 1.2, torch.eye(5).double() + 0.4 * random(5, 5, seed=78)
    labels = torch.multinomial(
        torch.tensor(priors), count, replacement=True, generator=torch.Generator().manual_seed(seed)
    )
    return means[labels] + random(count, 5, seed=seed) @ root.T, labels, means, root @ root.T


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_gaussian_head_recovers_bayes_rule(share: float) -> None:
    features, labels, means, covariance = gaussians(200_000, 1)
    own, others = (
        moments_of(features[:100_000], labels[:100_000], 3),
        moments_of(features[100_000:], labels[100_000:], 3),
    )
    weight, bias = refined_head(own, others, share, shrinkage=0.0)
    best = torch.linalg.solve(covariance, means.T).T
    intercept = torch.tensor([0.6, 0.3, 0.1]).double().log() - (best * means).sum(1) / 2
    new, truth, *_ = gaussians(20_000, 2)
    chosen, ideal = (new @ weight.T + bias).argmax(1), (new @ best.T + intercept).argmax(1)
    assert (chosen == ideal).double().mean() > 0.99
    assert float((chosen == truth).double().mean()) == pytest.approx(
        float((ideal == truth).double().mean()), abs=0.003
    )
    assert_close(weight, best, rtol=0.03, atol=0.03)
    _, uniform = refined_head(own, others, share, shrinkage=0.0, own_priors=False)
    assert_close(
        uniform - bias,
        -torch.tensor([0.6, 0.3, 0.1]).double().log() - torch.log(torch.tensor(3.0)),
        rtol=0,
        atol=0.03,
    )


def test_a_class_that_one_side_lacks_is_the_other_sides() -> None:
    features, labels, *_ = gaussians(3000, 1)
    whole, part = (
        moments_of(features, labels, 3),
        moments_of(features[labels != 2], labels[labels != 2], 3),
    )
    for share in (0.0, 0.5, 1.0):
        for own, others in ((whole, part), (part, whole)):
            weight, bias = refined_head(own, others, share, own_priors=False)
            recall = ((features @ weight.T + bias).argmax(1)[labels == 2] == 2).double().mean()
            assert recall > 0.5
        weight, bias = refined_head(part, part, share)
        assert (features @ weight.T + bias)[:, 2].max() == -1e9
    with pytest.raises(ValueError, match="shapes"):
        refined_head(whole, moments_of(features, labels, 4), 0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        refined_head(whole, part, 1.5)


def test_the_share_follows_who_is_to_be_trusted() -> None:
    features, labels, *_ = gaussians(4000, 1)
    others = moments_of(features, labels, 3)
    few, their, *_ = gaussians(15, 2)
    assert choose_share(few, their, others) < 0.5
    many, classes, *_ = gaussians(1000, 3)
    assert choose_share(-3 * many, classes, others) > 0.5  # other stains
    with pytest.raises(ValueError, match="at least 2"):
        choose_share(few, their, others, folds=1)


def test_a_covariance_of_too_few_examples_needs_shrinkage() -> None:
    few = moments_of(random(4, 12), torch.tensor([0, 1, 2, 2]), 3)
    with pytest.raises(ConfigError, match="Set a larger one"):
        refined_head(few, few, 0.5, shrinkage=0.0)
    assert all(bool(torch.isfinite(each).all()) for each in refined_head(few, few, 0.5))
