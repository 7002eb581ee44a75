import pytest
import torch
from torch import Tensor, nn

from polyclinic.imaging.deformation import exponentiate, jacobian_determinant
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator

CHANNELS = (4, 4, 4)


def given(people: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images with the reference, and keys."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(people, 2, 16, 24, 16, generator=generator), torch.randn(
        people, 3, 8, 12, 8, generator=generator
    )


def stirred(bound: float = 4.0, std: float = 3.0) -> FlowGenerator:
    """A generator that moves a lot, unlike a new one."""
    torch.manual_seed(0)
    network = FlowGenerator(CHANNELS, bound=bound)
    nn.init.normal_(network.head.weight, std=std)
    return network.eval()


def test_a_new_generator_moves_nearly_nothing() -> None:
    torch.manual_seed(0)
    velocity = FlowGenerator(CHANNELS)(*given())
    assert velocity.shape == (1, 3, 8, 12, 8) and velocity.dtype == torch.float32
    assert 0 < float(velocity.detach().abs().max()) < 0.05


def test_no_component_exceeds_the_bound() -> None:
    velocity = stirred(bound=1.5)(*given()).detach()
    assert 1.0 < float(velocity.abs().max()) <= 1.5 + 1e-5


def test_image_and_key_both_decide() -> None:
    network, (image, key) = stirred(), given()
    other_image, other_key = given(seed=1)
    found = network(image, key)
    assert torch.equal(network(image, key), found)
    assert not torch.allclose(network(other_image, key), found, atol=1e-2)
    assert not torch.allclose(network(image, other_key), found, atol=1e-2)


def test_people_in_one_batch_do_not_see_each_other() -> None:
    network, (images, keys) = stirred(), given(2)
    both = network(images, keys)
    alone = torch.cat(
        [network(image[None], key[None]) for image, key in zip(images, keys, strict=True)]
    )
    torch.testing.assert_close(both, alone, atol=1e-4, rtol=1e-4)


def test_smoothness_keeps_space_from_folding() -> None:
    rough, smooth = stirred(), stirred()
    rough.smoothness, smooth.smoothness = 0.0, 2.5
    least = [
        float(jacobian_determinant(exponentiate(network(*given()).detach())).min())
        for network in (rough, smooth)
    ]
    assert least[1] > 0 and least[1] > least[0]


def test_every_weight_learns() -> None:
    network = stirred(std=0.1)
    network(*given()).square().sum().backward()
    silent = [
        name
        for name, weight in network.named_parameters()
        if weight.grad is None or not weight.grad.abs().sum()
    ]
    assert all(name.endswith("0.bias") for name in silent)  # an instance normalization follows


def test_ill_shaped_keys_and_images_are_refused() -> None:
    image, key = given()
    with pytest.raises(RuntimeError, match="size"):
        stirred()(image, key[..., :4])
    with pytest.raises(RuntimeError, match="channels"):
        stirred()(image[:, :1], key)
