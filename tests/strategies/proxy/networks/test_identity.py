import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from polyclinic_strategies.proxy.networks.identity import IdentityNetwork

SHAPE = (16, 24, 16)


def network(inputs: int = 1) -> IdentityNetwork:
    torch.manual_seed(0)
    return IdentityNetwork(SHAPE, inputs, (4, 4, 8), features=12)


def test_features_are_unit_vectors() -> None:
    told = network(inputs=4)(torch.rand(3, 4, *SHAPE))
    assert told.shape == (3, 12)
    assert_close(told.norm(dim=1), torch.ones(3))


def test_the_same_image_is_the_same_point_whoever_is_beside_it() -> None:
    images = torch.rand(3, 1, *SHAPE)
    both = network()(images)
    assert_close(both[1:2], network()(images[1:2]), atol=1e-5, rtol=1e-4)
    assert_close(
        network()(2 * images), both, atol=1e-2, rtol=1e-2
    )  # a scanner's gain is no identity


def test_where_a_shape_lies_matters() -> None:
    image = torch.zeros(1, 1, *SHAPE)
    image[..., 2:6, 2:6, 2:6] = 1
    told = network()(torch.cat([image, image.roll(10, 3)])).detach()
    assert float(told[0] @ told[1]) < 0.95


def test_people_who_differ_are_learned_in_a_few_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(6, 1, *SHAPE, generator=generator)
    visits = [people + 0.5 * torch.randn(people.shape, generator=generator) for _ in range(3)]
    recognizer = network()
    optimizer = torch.optim.Adam(recognizer.parameters(), 3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        likeness = recognizer(visits[0]) @ recognizer(visits[1]).T
        functional.cross_entropy(10 * likeness, torch.arange(6)).backward()
        optimizer.step()
    with torch.no_grad():
        likeness = (
            recognizer(visits[0]) @ recognizer(visits[2]).T
        )  # a visit that was not trained on
    assert (likeness.argmax(1) == torch.arange(6)).all()


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        network()(torch.rand(1, 1, 24, 24, 24))
