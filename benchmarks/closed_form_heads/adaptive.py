"""Merging coefficients that a hospital finds itself, on images without labels.

No statistic leaves the hospital, but the task vectors of others reach it. AdaMerging, Yang et al.
2024, https://arxiv.org/abs/2310.02575, finds one coefficient for every layer and task by minimizing
the entropy of the merged model's output. Here the coefficients of a layer add up to 1, so that the
model stays between those of the hospitals. Beside entropy there is consistency: the output must
not change when the image is mirrored and its intensities are bent.
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
from polyclinic_strategies.refinement.refine import TaskVectors

OBJECTIVES = ("entropy", "consistency")
GAMMA = 1.5  # exponent by which intensities are bent
SURE = 4.0  # initial coefficients are at least exp(-SURE)

Step = Callable[[int, float], None]


@dataclass(frozen=True)
class Adapted:
    """Result of the search.

    Attributes:
        state: The hospital's model.
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
    vectors: Mapping[str, TaskVectors],
    start: Mapping[str, float],
    batches: Iterable[Float[Tensor, "_ channels ..."]],
    *,
    objective: str = "consistency",
    layer_wise: bool = True,
    learning_rate: float = 0.1,
) -> Adapted:
    """Find coefficients by gradient descent, one step for each batch.

    Args:
        network: Network of the base; left as it was.
        base: Floating-point tensors of the network by name.
        vectors: Contributions by site.
        start: Coefficients to start from, positive for at least one site.
        batches: Images without labels.
        objective: "entropy": mean entropy of the outputs. "consistency": cross entropy between the
            output for an image and that for the same image mirrored and bent, minus the entropy of
            the mean output, so that one output for everything is no solution.
        layer_wise: One set of coefficients for every parameter, or one for all. Running statistics
            of
            batch normalization have no gradient: layer-wise, they keep the initial coefficients.
        learning_rate: Learning rate of Adam, on the logits of the coefficients.

    Raises:
        ValueError: Unknown objective, or no positive coefficient in `start`.
    """
    if objective not in OBJECTIVES or not any(start.get(site, 0.0) > 0 for site in vectors):
        raise ValueError(
            f"objective={objective}: choose one of {', '.join(OBJECTIVES)}, and start with a "
            "positive coefficient for at least one site"
        )
    mixture = _Mixture(network, base, vectors, start, layer_wise)
    optimizer = torch.optim.Adam(list(mixture.logits.values()), lr=learning_rate)
    measure = _entropy if objective == "entropy" else _inconsistency
    device, losses = device_of(network), []
    with training_mode(network, train=False), torch.enable_grad():
        for images in batches:
            state = mixture.state()

            def answer(batch: Tensor, state: StateDict = state) -> Tensor:
                found: Tensor = functional_call(network, state, (batch,))
                return found

            loss = measure(answer, images.to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
    with torch.no_grad():
        state = {name: tensor.detach().cpu() for name, tensor in mixture.state().items()}
    return Adapted(state, mixture.coefficients(), tuple(losses))


class _Mixture:
    """The merged model as a differentiable function of the logits of its coefficients."""

    def __init__(
        self,
        network: nn.Module,
        base: StateDict,
        vectors: Mapping[str, TaskVectors],
        start: Mapping[str, float],
        layer_wise: bool,
    ) -> None:
        device = device_of(network)
        self._sites, self._layer_wise = sorted(vectors), layer_wise
        self._base = {name: tensor.to(device) for name, tensor in base.items()}
        self._stacks = {
            name: torch.stack([vectors[site].task_vector(name) for site in self._sites]).to(device)
            for name in base
        }
        self._tuned = {name for name, _ in network.named_parameters()}
        first = torch.tensor([start.get(site, 0.0) for site in self._sites], device=device)
        first = first.clamp_min(torch.exp(torch.tensor(-SURE))).log()
        names = base if layer_wise else ("",)
        self.logits = {name: first.clone().requires_grad_() for name in names}

    def state(self) -> StateDict:
        """Return the model for the present coefficients."""
        found = {}
        for name, tensor in self._base.items():
            share = self._logit(name).softmax(0)
            share = share if name in self._tuned else share.detach()
            found[name] = tensor + torch.tensordot(share, self._stacks[name], 1)
        return found

    def coefficients(self) -> dict[str, dict[str, float]]:
        """Return parameter to site to coefficient."""
        return {
            name: dict(zip(self._sites, self._logit(name).softmax(0).tolist(), strict=True))
            for name in self._base
        }

    def _logit(self, name: str) -> Tensor:
        return self.logits[name if self._layer_wise else ""]


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
    """Apply a gamma curve between the darkest and the brightest value of each image and channel."""
    flat = images.flatten(2)
    low, high = (
        pick(flat, 2).reshape(*images.shape[:2], *(1,) * (images.ndim - 2))
        for pick in (torch.amin, torch.amax)
    )
    return low + (high - low) * ((images - low) / (high - low).clamp_min(1e-6)).pow(GAMMA)
