"""The universal network: encoders of both kinds, and a linear head on standardized features."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from polyclinic.learning.site_tasks import SiteTask
from polyclinic_strategies.universal.networks.encoders import (
    ConvolutionalEncoder,
    VitEncoder,
    average,
    embed,
    read_at,
)
from polyclinic_strategies.universal.networks.network import Head, UniversalNetwork


def network(channels: int = 3, dims: int = 2) -> UniversalNetwork:
    torch.manual_seed(0)
    return UniversalNetwork(ConvolutionalEncoder(dims, channels, [16] * dims, [8, 16]))


def vit(dims: int = 2) -> UniversalNetwork:
    torch.manual_seed(0)
    return UniversalNetwork(VitEncoder(dims, 3, [16] * dims, 8, 16, 2, 2))


@pytest.mark.parametrize(("one", "places"), [(network(), [8, 4]), (vit(), [2, 2])])
@pytest.mark.parametrize("batch", [1, 3])
def test_maps_have_the_promised_channels_and_sizes(
    one: UniversalNetwork, places: list[int], batch: int
) -> None:
    maps = one.encoder(torch.rand(batch, 3, 16, 16))
    assert [tuple(each.shape) for each in maps] == [
        (batch, width, place, place)
        for width, place in zip(one.encoder.widths, places, strict=True)
    ]


@pytest.mark.parametrize("one", [network(dims=3), vit(3)])
def test_volumes_are_read_and_segmented_too(one: UniversalNetwork) -> None:
    image = torch.rand(2, 1, 16, 16, 16)
    assert one(image).shape == (2, 2 * sum(one.encoder.widths))
    one.attach_head(SiteTask("segmentation", 3, 1, 3))
    assert one(image).shape == (2, 3, 16, 16, 16)


def test_encoders_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        ConvolutionalEncoder(2, 3, [16, 16], [8, 12])
    with pytest.raises(ValueError, match="multiple of patch"):
        VitEncoder(2, 3, [20, 16], 8, 16, 2, 2)
    with pytest.raises(ValueError, match="must be even"):
        VitEncoder(2, 3, [16, 16], 8, 16, 3, 2)


def test_an_embedding_is_mean_and_maximum_of_each_map() -> None:
    maps = [torch.tensor([[[[1.0, 3.0]], [[0.0, -2.0]]]]), torch.tensor([[[[5.0]]]])]
    assert_close(average(maps), torch.tensor([[2.0, -1.0, 5.0]]))
    assert_close(embed(maps), torch.tensor([[2.0, -1.0, 5.0, 3.0, 0.0, 5.0]]))


def test_features_at_places_are_those_of_the_upsampled_maps() -> None:
    torch.manual_seed(0)
    maps = [torch.rand(2, 3, 8, 8), torch.rand(2, 2, 4, 4)]
    together = torch.cat(
        [
            functional.interpolate(each, size=(16, 16), mode="bilinear", align_corners=False)
            for each in maps
        ],
        1,
    )
    places = torch.tensor([[[0.0, 0.0], [15.0, 3.0]], [[7.0, 8.0], [4.0, 15.0]]])
    wanted = torch.stack(
        [
            torch.stack([together[n][:, int(x), int(y)] for x, y in where])
            for n, where in enumerate(places)
        ]
    )
    assert_close(read_at(maps, places, (16, 16)), wanted)


def test_an_image_of_one_channel_is_repeated() -> None:
    one = network().eval()
    image = torch.rand(2, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(one(image), one(image.expand(-1, 3, -1, -1)))


def test_other_channels_get_a_stem_that_is_not_shared() -> None:
    one = network()
    one.attach_head(SiteTask("classification", 2, 1, 2))
    assert isinstance(one.stem, nn.Identity)
    one.attach_head(SiteTask("classification", 2, 2, 2))
    assert isinstance(one.stem, nn.Conv2d) and one(torch.rand(2, 2, 16, 16)).shape == (2, 2)
    assert {name.split(".")[0] for name in one.state_dict()} == {"encoder", "stem", "head"}


@pytest.mark.parametrize(
    "task", [SiteTask("classification", 3, 3, 2), SiteTask("segmentation", 3, 3, 2)]
)
def test_a_batch_of_one_can_be_trained_on(task: SiteTask) -> None:
    one = network()
    one.attach_head(task)
    logits = one.train()(torch.rand(1, 3, 16, 16))
    logits.square().mean().backward()
    assert all(
        weight.grad is not None and bool(torch.isfinite(weight.grad).all())
        for weight in one.parameters()
    )


def test_a_dense_head_is_a_linear_layer_on_the_upsampled_standardized_maps_together() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 8, 8, 8) * 3 + 1, torch.randn(2, 16, 4, 4)]
    head = Head(SiteTask("segmentation", 3, 3, 2), [8, 16], 2).eval()
    rows = torch.cat(
        [
            functional.interpolate(each, size=(16, 16), mode="bilinear", align_corners=False)
            for each in maps
        ],
        1,
    )
    head.calibrate(rows.movedim(1, -1).flatten(0, 2))
    standardized = functional.batch_norm(rows, head.mean, head.variance)
    wanted = functional.conv2d(standardized, head.linear.weight[..., None, None], head.linear.bias)
    with torch.no_grad():
        assert_close(head(maps, (16, 16)), wanted, atol=1e-5, rtol=1e-4)


def test_calibrating_returns_standardized_rows_and_in_training_the_batch_is_the_measure() -> None:
    torch.manual_seed(0)
    head = Head(SiteTask("classification", 2, 3, 2), [8], 2).eval()
    rows = head.calibrate(torch.randn(50, 16) * 4 - 2)
    assert_close(rows.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    assert_close(rows.std(0, correction=0), torch.ones(16), atol=1e-3, rtol=0)
    maps = [torch.randn(6, 8, 4, 4)]
    with torch.no_grad():
        head.train()
        assert_close(
            head(maps, (8, 8)), head([maps[0] * 100], (8, 8)), atol=1e-3, rtol=1e-3
        )  # the scale does not matter
        assert not torch.allclose(head.eval()(maps, (8, 8)), head([maps[0] * 100], (8, 8)))


def test_a_task_says_what_it_is() -> None:
    assert str(SiteTask("segmentation", 4, 1, 3)) == "segmentation, 4 classes, 1 channel, 3-D"
