"""Models that a dishonest coordinator would send: their updates hold the images of a batch.

`imprinted` changes the weights of one layer of an honest network, as "Robbing the Fed" (Fowl et al.
2022, https://arxiv.org/abs/2110.13057) and MedLeak (https://arxiv.org/abs/2407.09972) describe:

- all rows of the layer measure the same thing: the mean, or a random direction (`mean`, `random`);
- its biases cut the range of that measurement into bins of equal probability, if it has biases;
- rows may differ a little, in scale, sign, or by noise, to look like others (`disguised`);
- only a part of the rows may be taken (`partial`);
- convolutions in front of it may copy their input (`copying`).

`leak` shows what such a layer is for: it takes the images of a batch out of one gradient.
"""

import copy
import math
import random
from collections.abc import Mapping

import torch
from torch import Tensor, nn

KINDS = ("mean", "random", "disguised", "partial", "copying")
LEAST_ROWS, LEAST_LENGTH = 16, 18


def layers_of(network: nn.Module) -> list[str]:
    """Return the layers that can hold an imprint: their weights' names."""
    return [
        name
        for name, tensor in network.state_dict().items()
        if tensor.ndim >= 2
        and tensor.is_floating_point()
        and tensor.shape[0] >= LEAST_ROWS
        and tensor.shape[1] > 1
        and tensor[0].numel() >= LEAST_LENGTH
    ]


def imprinted(network: nn.Module, kind: str, seed: int) -> dict[str, Tensor]:
    """Return the weights of a network with an imprint in one of its layers.

    Args:
        network: An honest one; it stays as it is.
        kind: One of `KINDS`.
        seed: Chooses the layer, and all that is drawn.
    """
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    name = draw.choice(layers_of(network))
    if kind == "copying":
        _copy_input(state[name])
        return state
    _make_bins(state, name, kind, draw, generator)
    return state


def _make_bins(
    state: Mapping[str, Tensor],
    name: str,
    kind: str,
    draw: random.Random,
    generator: torch.Generator,
) -> None:
    weight = state[name]
    rows = weight.flatten(1)
    count, length = rows.shape
    direction = torch.ones(length) / length
    if kind != "mean" and (kind == "random" or draw.random() < 0.5):
        direction = torch.randn(length, generator=generator) / math.sqrt(length)
    made = direction.expand(count, length).clone()
    if kind == "disguised":
        scale = torch.rand(count, 1, generator=generator) + 0.5
        sign = torch.randint(0, 2, (count, 1), generator=generator) * 2.0 - 1
        noise = torch.randn(count, length, generator=generator) * direction.norm()
        made = made * scale * sign + draw.uniform(0.0, 0.2) * scale * noise / math.sqrt(length)
    taken = count if kind != "partial" else math.ceil(draw.uniform(0.4, 0.9) * count)
    rows[:taken] = made[:taken]
    weight.copy_(rows.reshape(weight.shape))
    bias = name.removesuffix("weight") + "bias"
    if bias in state and state[bias].shape == (count,):
        quantiles = (torch.arange(count) + 0.5) / count
        state[bias][:taken] = -torch.special.ndtri(quantiles)[:taken] * direction.norm()


def _copy_input(weight: Tensor) -> None:
    """Make a layer copy its inputs, one each, and add nothing."""
    weight.zero_()
    rows = weight.flatten(1)
    inputs, centre = weight.shape[1], weight[0, 0].numel() // 2
    for number in range(len(rows)):
        rows[number, (number % inputs) * weight[0, 0].numel() + centre] = 1.0
    weight.copy_(rows.reshape(weight.shape))


def leak(images: Tensor, bins: int, seed: int) -> Tensor:
    """Take the images of a batch out of one gradient of an imprint layer.

    Args:
        images: Shape (batch, numbers), of mean brightness like a normal distribution.
        bins: Number of the layer's rows.
        seed: Of the layers behind it.

    Returns:
        Shape (bins - 1, numbers): in each bin into which one image fell alone, that image.
    """
    layer, behind = imprint_layers(images, bins, seed)
    return read_bins(*imprint_gradients(images, layer, behind))


def imprint_layers(images: Tensor, bins: int, seed: int) -> tuple[nn.Linear, nn.Linear]:
    """Make an imprint layer that fits images' mean brightness, and a layer behind it."""
    torch.manual_seed(seed)
    layer, behind = nn.Linear(images.shape[1], bins), nn.Linear(bins, 2)
    means = images.mean(1)
    with torch.no_grad():
        layer.weight.copy_(torch.full((bins, images.shape[1]), 1.0 / images.shape[1]))
        quantiles = (torch.arange(bins) + 0.5) / bins
        layer.bias.copy_(-(means.mean() + means.std() * torch.special.ndtri(quantiles)))
        behind.weight.copy_(torch.randn(2, 1).expand(2, bins))
    return layer, behind


def imprint_gradients(images: Tensor, layer: nn.Linear, behind: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return the gradients of the layer's weights and biases for a batch of images."""
    loss = nn.functional.cross_entropy(
        behind(torch.relu(layer(images))), torch.zeros(len(images), dtype=torch.long)
    )
    by_weight, by_bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
    return by_weight, by_bias


def read_bins(by_weight: Tensor, by_bias: Tensor) -> Tensor:
    """Take images out of the gradients of an imprint layer; shape as of `leak`."""
    steps, amounts = by_weight[:-1] - by_weight[1:], by_bias[:-1] - by_bias[1:]
    return steps / torch.where(amounts.abs() > 1e-12, amounts, torch.inf)[:, None]


def honest(name: str, seed: int, *settings: str) -> nn.Module:
    """Build one of our networks with its first weights."""
    from polyclinic.config.compose import instantiate, load_config

    config = load_config([f"model={name}", *settings])
    torch.manual_seed(seed)
    network: nn.Module = instantiate(config.model)
    return network


def trained(network: nn.Module, shape: tuple[int, ...], seed: int, steps: int) -> nn.Module:
    """Train a copy of a network to tell bright squares, for some steps."""
    made = copy.deepcopy(network).train()
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for _ in range(steps):
        images = torch.randn(2, *shape)
        outputs = made(images)
        outputs = outputs[0] if isinstance(outputs, list | tuple) else outputs
        if outputs.ndim > 2:
            wanted = (images.mean(1) > 0).long()
            loss = nn.functional.cross_entropy(outputs, wanted)
        else:
            loss = nn.functional.cross_entropy(outputs, (images.flatten(1).mean(1) > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made
