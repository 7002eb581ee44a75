"""Coefficients that the hospital finds itself, on images without labels: then not even a statistic leaves it, but vectors reach it.

AdaMerging, Yang et al. 2024, https://arxiv.org/abs/2310.02575, found one coefficient for every
layer and task by making the merged model sure of itself (entropy). Here the coefficients of a layer
add up to 1, so that the model stays between those of the hospitals; and beside entropy there is
consistency: the answer must not change when the image is mirrored and its intensities are bent.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from polyclinic.learning.modes import training_mode
from polyclinic.learning.state_dict import StateDict
from polyclinic.learning.training import device_of
from polyclinic_strategies.refinement.refine import Vectors

OBJECTIVES = ("entropy", "consistency")
GAMMA = 1.5  # how intensities are bent
SURE = 4.0  # the logit with which the nearest hospitals start

Step = Callable[[int, float], None]


@dataclass(frozen=True)
class Adapted:
    """What a hospital found.

    Attributes:
        state: Its model.
        coefficients: Parameter to site to coefficient; equal for all parameters if the search was
            not layer-wise.
        losses: One for every step.
    """

    state: StateDict
    coefficients: Mapping[str, Mapping[str, float]]
    losses: tuple[float, ...]


def adapt(
    network: nn.Module,
    base: StateDict,
    vectors: Mapping[str, Vectors],
    start: Mapping[str, float],
    batches: Iterable[Float[Tensor, "batch channels *places"]],
    *,
    objective: str = "consistency",
    layer_wise: bool = True,
    learning_rate: float = 0.1,
) -> Adapted:
    """Find coefficients by gradient descent, one step for each batch.

    Args:
        network: Of the base; left as it was.
        base: Floating tensors of the network by name.
        vectors: Contributions by site.
        start: Coefficients to start from, positive for at least one site.
        batches: Images without labels.
        objective: entropy: the mean entropy of the answers; consistency: cross entropy between the
            answer to an image and that to the same image mirrored and bent, minus the entropy of
            the mean answer, so that one answer for everything is no way out.
        layer_wise: One set of coefficients for every parameter, or one for all. Running statistics
            of batch normalization have no
            gradient: layer-wise they keep the coefficients of the start.
        learning_rate: Of Adam, on the logits of the coefficients.

    Raises:
        ValueError: No such objective, or nothing to start from.
    """
    if objective not in OBJECTIVES or not any(start.get(site, 0.0) > 0 for site in vectors):
        raise ValueError(
            f"objective {objective}: one of {', '.join(OBJECTIVES)}; and a site with a positive "
            "coefficient to start from"
        )
    sites, device = sorted(vectors), device_of(network)
    stacks = {
        name: torch.stack([vectors[site].task_vector(name) for site in sites]).to(device)
        for name in base
    }
    initial = (
        torch.tensor([start.get(site, 0.0) for site in sites], device=device)
        .clamp_min(torch.exp(torch.tensor(-SURE)))
        .log()
    )
    logits = {name: initial.clone().requires_grad_() for name in (base if layer_wise else ("",))}
    optimizer = torch.optim.Adam(list(logits.values()), lr=learning_rate)
    measure = _entropy if objective == "entropy" else _inconsistency
    losses = []

    tuned = {name for name, _ in network.named_parameters()}

    def mixed() -> StateDict:
        shares = {name: logit.softmax(0) for name, logit in logits.items()}
        chosen = {name: shares[name if layer_wise else ""] for name in base}
        chosen = {
            name: share if name in tuned else share.detach() for name, share in chosen.items()
        }
        return {
            name: tensor.to(device) + torch.tensordot(chosen[name], stacks[name], 1)
            for name, tensor in base.items()
        }

    with training_mode(network, train=False), torch.enable_grad():
        for images in batches:
            state = mixed()

            def answer(batch: Tensor, state: StateDict = state) -> Tensor:
                found: Tensor = functional_call(network, state, (batch,))
                return found

            loss = measure(answer, images.to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
    with torch.no_grad():
        state = {name: tensor.detach().cpu() for name, tensor in mixed().items()}
        found = {name: logits[name if layer_wise else ""].softmax(0).tolist() for name in base}
    return Adapted(
        state,
        {name: dict(zip(sites, values, strict=True)) for name, values in found.items()},
        tuple(losses),
    )


def _entropy(answer: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    logs = answer(images).log_softmax(1)
    return -(logs.exp() * logs).sum(1).mean()


def _inconsistency(answer: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    logs = answer(images).log_softmax(1)
    mirrored = (
        _mirror(answer(_bend(_mirror(images))).log_softmax(1))
        if logs.ndim > 2
        else answer(_bend(_mirror(images))).log_softmax(1)
    )
    agreement = -(logs.exp() * mirrored).sum(1).mean()
    mean = logs.exp().transpose(0, 1).flatten(1).mean(1)
    return agreement + (mean * mean.clamp_min(1e-8).log()).sum()


def _mirror(images: Tensor) -> Tensor:
    return images.flip(2)


def _bend(images: Tensor) -> Tensor:
    """A gamma curve between the darkest and the brightest value of each image and channel."""
    flat = images.flatten(2)
    low, high = (
        pick(flat, 2).reshape(*images.shape[:2], *(1,) * (images.ndim - 2))
        for pick in (torch.amin, torch.amax)
    )
    return low + (high - low) * ((images - low) / (high - low).clamp_min(1e-6)).pow(GAMMA)
