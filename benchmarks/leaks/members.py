"""Membership inference: was this image among those that were trained on?

Two attacks on a model: the loss (Yeom et al. 2018, https://arxiv.org/abs/1709.01604), and the
likelihood ratio of the logit of the right class under models that were and were not trained on the
image (LiRA, Carlini et al. 2022, https://arxiv.org/abs/2112.03570), with few shadow models and one
variance for all images. The attacker knows how the models were trained, and has images of the same
kind.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Train = Callable[[nn.Module, Tensor, Tensor], None]
MODELS = ("one hospital's update", "refined model", "published model")
OWN = 0.7  # weight of one hospital's contribution in a refined model


@dataclass(frozen=True)
class Federation:
    """Models after training, and who was trained on.

    Attributes:
        models: One hospital's, one refined for that hospital, and the mean of all.
        inside: For each model, whether an image was trained on, (images,).
    """

    models: Sequence[nn.Module]
    inside: Sequence[Tensor]


def train_federation(
    base: nn.Module, images: Tensor, labels: Tensor, hospitals: int, train: Train, seed: int
) -> Federation:
    """Train hospitals on a random half of the images, divided among them.

    The published model is the mean of the hospitals' models. The refined one has `OWN` of its
    weight from the first hospital, as refinement makes models for a hospital like that one.
    """
    torch.manual_seed(seed)
    half = torch.randperm(len(images))[: len(images) // 2]
    parts, trained = half.chunk(hospitals), []
    for part in parts:
        network = copy.deepcopy(base)
        train(network, images[part], labels[part])
        trained.append(network)
    rest = (1 - OWN) / (hospitals - 1)
    refined = mixed(trained, [OWN, *[rest] * (hospitals - 1)])
    published = mixed(trained, [1 / hospitals] * hospitals)
    first, every = torch.zeros(len(images)).bool(), torch.zeros(len(images)).bool()
    first[parts[0]], every[half] = True, True
    return Federation((trained[0], refined, published), (first, first, every))


def mixed(networks: Sequence[nn.Module], weights: Sequence[float]) -> nn.Module:
    """Return the weighted mean of networks."""
    made = copy.deepcopy(networks[0])
    states = [each.state_dict() for each in networks]
    pairs = list(zip(weights, states, strict=True))
    made.load_state_dict(
        {name: torch.stack([w * s[name] for w, s in pairs]).sum(0) for name in states[0]}
    )
    return made


def wrong_labels(labels: Tensor) -> Tensor:
    """Return labels of which every third is wrong.

    What is like everything else need not be remembered: cases whose label is wrong show what
    training keeps of a single one (Aerni, Zhang and Tramer 2024,
    https://arxiv.org/abs/2404.17399).
    """
    made = labels.clone()
    made[::3] = 1 - made[::3]
    return made


@torch.no_grad()
def confidence(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the logit of the right class's probability, (images,)."""
    losses = cross_entropy(network(images), labels, reduction="none").double().clamp_min(1e-9)
    return -losses - torch.log(-torch.expm1(-losses))


def attack(
    target: Federation, shadows: Sequence[Federation], images: Tensor, labels: Tensor
) -> list[dict[str, object]]:
    """Return the AUC of both attacks on each model."""
    rows: list[dict[str, object]] = []
    for place, name in enumerate(MODELS):
        inside = target.inside[place]
        outside = ~target.inside[-1]  # trained on by nobody
        seen = confidence(target.models[place], images, labels)
        told = torch.stack([confidence(each.models[place], images, labels) for each in shadows])
        was = torch.stack([each.inside[place] for each in shadows])
        never = torch.stack([~each.inside[-1] for each in shadows])
        rows.append(
            {
                "model": name,
                "loss": auc(seen[inside], seen[outside]),
                "likelihood ratio": auc(*ratios(seen, told, was, never, inside, outside)),
                "members": int(inside.sum()),
                "right on others": float((seen[outside] > 0).double().mean()),
            }
        )
    return rows


def ratios(
    seen: Tensor, told: Tensor, was: Tensor, never: Tensor, inside: Tensor, outside: Tensor
) -> tuple[Tensor, Tensor]:
    """Return log likelihood ratios of members and of others.

    Each image's mean when it was trained on is its mean when it was not, plus what training adds
    to images on average: few shadow models trained on it.
    """
    added = told[was].mean() - told[never].mean()
    count = never.sum(0).clamp_min(1)
    without = (told * never).sum(0) / count
    variance = ((told - without).square() * never).sum() / never.sum()
    score = -(seen - without - added).square() + (seen - without).square()
    score = score / variance
    known = never.sum(0) > 0
    return score[inside & known], score[outside & known]


def auc(members: Tensor, others: Tensor) -> float:
    """Return the chance that a member scores higher than another."""
    difference = members[:, None] - others[None]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())
