"""Statistics: what they are on paper, what they do not see, and strange images."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.release import Release
from polyclinic.describing.average_image import AverageImage
from polyclinic.describing.channel_gaussians import ChannelGaussians
from polyclinic.describing.correlation import Correlation
from polyclinic.describing.early_features import EarlyFeatures
from polyclinic.describing.histogram import Histogram
from polyclinic.describing.regions import crop_to_patient, standardize
from polyclinic.describing.statistics import describe, statistics
from polyclinic.errors import TooFewSubjects, UnknownName
from polyclinic.imaging.foreground import foreground

NOTHING = nn.Identity()  # the network of statistics that need none
STATISTICS = statistics()
ALONE = [name for name, statistic in STATISTICS.items() if not statistic.needs_network]
CUT = [
    "average_image",
    "correlation",
    "early_features",
    "histogram",
]  # they look at the patient alone
MODELS = {
    "unet_2d": ["model=unet_2d", "data=brain_tissue_slices"],
    "unet": ["model=unet"],
    "densenet": ["model=densenet", "data=classification", "training=classification"],
    "densenet_2d": ["model=densenet_2d", "data=classification_2d", "training=classification"],
    "efficientnet_lite0": [
        "model=efficientnet_lite0",
        "data=white_blood_cells",
        "training=fine_tuning",
        "model.pretrained=false",
    ],
}


def network_of(model: str) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = instantiate(load_config(MODELS[model]).model)
    return network.eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head(seed: int = 0, size: int = 30) -> Tensor:
    """An ellipsoid with a bright centre, a dark front and some noise, in air; (1, x, y, z)."""
    axes = torch.meshgrid(
        *(torch.linspace(-1, 1, length) for length in (size, size + 6, size - 4)), indexing="ij"
    )
    radius = torch.stack(axes).square().sum(0).sqrt()
    tissue = (
        3.0
        + torch.exp(-4 * radius)
        - 0.5 * (axes[1] > 0.2)
        + 0.05 * random(*radius.shape, seed=seed)
    )
    return torch.where(radius < 0.9, tissue, 0.0)[None]


def measure(name: str, image: Tensor, network: nn.Module) -> Tensor:
    with torch.inference_mode():
        return STATISTICS[name].measure(image, network)


# analytic cases


def test_the_average_image_of_two_halves() -> None:
    image = torch.cat([torch.full((1, 2, 4, 4), 5.0), torch.full((1, 2, 4, 4), 9.0)], 1)
    expected = torch.cat([torch.full((4,), -1.0), torch.full((4,), 1.0)]) / math.sqrt(8)
    assert_close(AverageImage(size=2).measure(image, NOTHING), expected)
    assert_close(Correlation(size=2).measure(image, NOTHING), expected)


def test_the_average_image_of_a_photograph_has_one_layer() -> None:
    image = random(3, 20, 24, 1)
    assert AverageImage(size=4).measure(image, NOTHING).shape == (3 * 4 * 4,)


def test_the_histogram_counts_shares_inside_the_patient() -> None:
    image = torch.zeros(1, 4, 4, 1)
    image[0, 0] = torch.tensor([1.0, 1.0, 1.0, 5.0])[
        :, None
    ]  # standardized: -1 / sqrt(3) three times, sqrt(3)
    assert_close(
        Histogram(bins=4, reach=2.0).measure(image, NOTHING), torch.tensor([0.0, 0.75, 0.0, 0.25])
    )


def test_the_distance_of_histograms_is_how_far_the_mass_moves() -> None:
    first, third = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 0, 1.0, 0])
    assert Histogram(bins=4, reach=2.0).distance(first, third) == pytest.approx(
        2.0
    )  # two bins, each one deviation wide
    both = (torch.cat([first, first]) / 2, torch.cat([first, third]) / 2)
    assert Histogram(bins=4, reach=2.0).distance(*both) == pytest.approx(
        1.0
    )  # mean over two channels


def test_channel_gaussians_are_means_and_deviations_before_the_normalization() -> None:
    network = nn.Sequential(
        nn.Conv3d(1, 2, 1, bias=False), nn.InstanceNorm3d(2), nn.Conv3d(2, 4, 1), nn.GroupNorm(2, 4)
    ).eval()
    image = random(1, 32, 32, 32)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1, 1))
        first = network[0](image[None])[0]
        second = network[2](network[1](first[None]))[0]
    whole = torch.cat(
        [
            torch.cat([x.mean((1, 2, 3)), x.std((1, 2, 3), unbiased=False)]) / math.sqrt(2 * len(x))
            for x in (first, second)
        ]
    )
    assert_close(measure("channel_gaussians", image, network), whole / (1 + whole.norm()))


def test_early_features_of_the_identity_are_the_centred_average_image() -> None:
    network = nn.Sequential(nn.Conv3d(1, 1, 1, bias=False), nn.InstanceNorm3d(1)).eval()
    nn.init.ones_(network[0].weight)
    for length in (36, 48):  # padded by 12, and not at all
        image = random(1, length, length, length)
        small = AverageImage(size=6).measure(image, NOTHING)
        assert_close(
            measure("early_features", image, network), small / small.norm(), atol=1e-5, rtol=1e-4
        )


def test_a_correlation_is_that_of_the_voxels_that_both_have() -> None:
    one, other = torch.tensor([1.0, 2.0, 3.0, 0.0, 7.0]), torch.tensor([2.0, 1.0, 4.0, 5.0, 0.0])
    expected = 1 - float(torch.corrcoef(torch.stack([one[:3], other[:3]]))[0, 1])
    assert Correlation().distance(one, other) == pytest.approx(expected)
    assert Correlation().distance(one, -one) == pytest.approx(2.0)
    assert Correlation().distance(one, 5 * one) == pytest.approx(0.0)
    assert Correlation().distance(torch.zeros(3), torch.ones(3)) == 1.0


def test_the_euclidean_distances() -> None:
    for statistic in (AverageImage(), ChannelGaussians(), EarlyFeatures()):
        assert statistic.distance(
            torch.tensor([1.0, 0.0]), torch.tensor([4.0, 4.0])
        ) == pytest.approx(5.0)


# bounds and distances


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("unet_2d", (1, 37, 50, 1)),
        ("unet_2d", (1, 33, 20, 17)),
        ("unet", (1, 33, 20, 17)),
        ("densenet", (1, 40, 33, 21)),
        ("densenet_2d", (1, 64, 64, 1)),
        ("efficientnet_lite0", (3, 50, 64, 1)),
    ],
)
def test_every_statistic_is_at_most_1_long_and_of_one_shape(
    model: str, shape: tuple[int, ...]
) -> None:
    network, shapes = network_of(model), set()
    for seed in range(3):
        image = random(*shape, seed=seed) ** (1 + 2 * seed)  # ever longer tails
        smaller = image[:, 1:-2, 2:]
        for each in (image, smaller):
            found = {name: measure(name, each, network) for name in STATISTICS}
            assert all(
                float(row.norm()) <= 1 + 1e-6
                and bool(row.isfinite().all())
                and row.dtype == torch.float32
                for row in found.values()
            )
            shapes.add(tuple(len(row) for row in found.values()))
    assert len(shapes) == 1


def test_an_image_that_shrinking_counts_twice_is_at_most_1_long() -> None:
    """Three voxels onto four: the outer ones count more, so the mean of squares can grow."""
    image = torch.tensor([1.0, 0.0, -1.0]).reshape(1, 3, 1, 1) * torch.tensor(
        [1.1, 0.7, 1.1]
    ).reshape(1, 1, 3, 1)
    image = image * torch.tensor([1.1, 0.7, 1.1]) + 1e-3
    assert float(AverageImage(size=4).measure(image, NOTHING).norm()) <= 1 + 1e-6


@pytest.mark.parametrize("name", STATISTICS)
def test_a_distance_is_0_to_itself_and_symmetric(name: str) -> None:
    network = network_of("unet_2d")
    one, other = (
        measure(name, head(seed) + seed * random(1, 30, 36, 26, seed=9), network) for seed in (0, 1)
    )
    statistic = STATISTICS[name]
    assert statistic.distance(one, one) == pytest.approx(0.0, abs=1e-12)
    assert statistic.distance(one, one) >= 0
    assert statistic.distance(one, other) == pytest.approx(statistic.distance(other, one)) != 0
    assert statistic.distance(one, other) > 0


# what they see and what they do not


@pytest.mark.parametrize("name", CUT)
def test_gain_and_offset_inside_the_patient_change_nothing(name: str) -> None:
    network, image = network_of("unet_2d"), head()
    same = torch.where(image != 0, 250 * image + 40, 0.0)
    assert_close(measure(name, same, network), measure(name, image, network), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("model", ["unet_2d", "unet"])
@pytest.mark.parametrize("name", CUT)
def test_where_in_the_field_of_view_the_patient_lies_changes_nothing(name: str, model: str) -> None:
    network, image = network_of(model), head()
    moved = nn.functional.pad(image, (3, 1, 0, 7, 5, 2))
    assert_close(measure(name, moved, network), measure(name, image, network), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CUT)
def test_a_patient_of_another_size_looks_alike(name: str) -> None:
    """30 voxels across are padded by 2 for the network, 36 by 12: places must stay the same."""
    network = network_of("unet_2d")
    small, large, inverted = head(), head(size=36), -head()
    rows = [
        measure(name, image, network)
        for image in (small, large, torch.where(inverted != 0, inverted + 8, 0.0))
    ]
    statistic = STATISTICS[name]
    assert statistic.distance(rows[0], rows[1]) < statistic.distance(rows[0], rows[2]) / 2


def test_an_inverted_contrast_is_far_but_a_symmetric_histogram_cannot_tell() -> None:
    half = random(1, 8, 16, 16).abs() + 1
    image = torch.cat([half, 20 - half], 1)  # as many voxels above 10 as below, equally far
    inverted = 20 - image
    rows = {
        name: (measure(name, image, NOTHING), measure(name, inverted, NOTHING)) for name in ALONE
    }
    apart = {name: STATISTICS[name].distance(*pair) for name, pair in rows.items()}
    assert apart["average_image"] > 1.5  # of at most 2
    assert apart["correlation"] > 1.9  # of at most 2
    assert apart["histogram"] < 0.01


# strange images


@pytest.mark.parametrize("model", ["unet_2d", "unet", "densenet"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_empty_and_constant_images_have_finite_vectors(value: float, model: str) -> None:
    network, usual = network_of(model), head()
    image = torch.full((1, 30, 36, 26), value)
    for name, statistic in STATISTICS.items():
        row, other = measure(name, image, network), measure(name, usual, network)
        assert row.shape == other.shape
        assert bool(row.isfinite().all())
        assert float(row.norm()) <= 1 + 1e-6
        assert math.isfinite(statistic.distance(row, other))
    for name in ("average_image", "correlation", "early_features"):
        assert float(measure(name, image, network).norm()) < 1e-3


@pytest.mark.parametrize("model", ["unet_2d", "unet", "densenet"])
def test_a_patient_of_one_voxel_has_vectors_of_the_usual_shape(model: str) -> None:
    network, image = network_of(model), torch.zeros(1, 30, 36, 26)
    image[0, 10, 11, 12] = 7.0
    for name in STATISTICS:
        row = measure(name, image, network)
        assert row.shape == measure(name, head(), network).shape
        assert bool(row.isfinite().all())


def test_a_channel_that_is_empty_does_not_spoil_the_others() -> None:
    image = torch.cat([head(), torch.zeros(1, 30, 36, 26)])
    row = AverageImage().measure(image, NOTHING).reshape(2, -1)
    assert not row[1].any()
    assert_close(row[0] * math.sqrt(2), AverageImage().measure(head(), NOTHING))


# places


def test_places() -> None:
    image = torch.zeros(2, 5, 6, 7)
    image[0, 1, 2, 3], image[1, 3, 2, 4] = 2.0, 4.0
    assert int(foreground(image).sum()) == 2
    assert_close(crop_to_patient(image), image[:, 1:4, 2:3, 3:5])
    made = standardize(image)
    assert_close(made[:, foreground(image)], torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    assert int((made != 0).sum()) == 4
    assert bool(foreground(torch.zeros(1, 2, 2, 2)).all())


# a hospital


def test_a_description_is_the_mean_over_subjects_and_leaves_the_network_as_it_was() -> None:
    network = network_of("unet_2d").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = [head(seed) for seed in range(3)]
    found = describe(list(STATISTICS), iter(images), range(len(images)), network, Release())
    assert list(found) == list(STATISTICS)
    assert network.training
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())
    assert_close(network.state_dict(), before, rtol=0, atol=0)
    network.eval()
    for name, row in found.items():
        assert row.dtype == torch.float32
        assert_close(
            row,
            torch.stack([measure(name, image, network) for image in images]).mean(0),
            atol=1e-6,
            rtol=1e-5,
        )


def test_too_few_subjects_are_not_described() -> None:
    with pytest.raises(TooFewSubjects):
        describe(["histogram"], [head(), head(1)], range(2), NOTHING, Release())
    with pytest.raises(UnknownName, match="unknown"):
        describe(["unknown"], [head()], range(1), NOTHING, Release())


def test_images_of_one_subject_count_as_one() -> None:
    images = [head(seed) for seed in range(4)]
    with pytest.raises(TooFewSubjects):
        describe(["histogram"], images, [0, 0, 1, 1], NOTHING, Release())
    release = Release(min_subjects=2)
    found = describe(["histogram"], images, [0, 1, 0, 0], NOTHING, release)["histogram"]
    rows = [measure("histogram", image, NOTHING) for image in images]
    first = torch.stack([rows[0], rows[2], rows[3]]).mean(0)
    assert_close(found, (first + rows[1]) / 2)
