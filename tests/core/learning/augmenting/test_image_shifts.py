"""Generated domain shifts of images and of features."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.jobs import job_settings, load_job
from polyclinic.config.schemas import ShiftsConfig
from polyclinic.errors import ConfigError
from polyclinic.learning.augmenting.feature_shifts import (
    client_spread,
    feature_shifts,
    mix_statistics,
    redraw_statistics,
)
from polyclinic.learning.augmenting.image_shifts import ImageShifts

KINDS = ("gamma", "inversion", "bias_field", "noise", "blur", "resolution")
EVERYTHING = ShiftsConfig(**dict.fromkeys(KINDS, 1.0))
FEDFA = ShiftsConfig(feature="fedfa", feature_probability=1.0)
NETWORKS = {
    "unet_2d": ["data=brain_tissue_slices"],
    "densenet_2d": ["data=classification_2d", "training=classification"],
    "efficientnet_lite0": [
        "data=white_blood_cells",
        "training=fine_tuning",
        "model.pretrained=false",
    ],
    "segresnet": ["data.patch=[32,32,32]"],
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head(*shape: int) -> Tensor:
    """Standardized inside a ball, exactly 0 outside; tissue with a skewed histogram."""
    channels, *places = shape
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size) for size in places], indexing="ij")
    inside = (sum(axis**2 for axis in axes) < 0.7).expand(channels, *places)
    image = (random(*shape) * 0.2 + torch.sin(5 * axes[0])).exp()
    for channel, mask in zip(image, inside, strict=True):
        channel[mask] = (channel[mask] - channel[mask].mean()) / channel[mask].std(unbiased=False)
    return torch.where(inside, image, 0.0)


IMAGES = [(1, 40, 48), (3, 40, 48), (1, 20, 24, 22), (4, 20, 24, 22)]


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone_changes_the_image_and_leaves_air_mean_and_deviation(
    kind: str, shape: tuple[int, ...]
) -> None:
    image = head(*shape)
    before = image.clone()
    shifted = ImageShifts(ShiftsConfig(**{kind: 1.0}), len(shape) - 1, seed=0)(image)
    assert (
        type(shifted) is Tensor and shifted.dtype == torch.float32 and shifted.shape == image.shape
    )
    assert torch.equal(image, before)
    assert not shifted[image == 0].any()
    for old, new in zip(image, shifted, strict=True):
        inside = old != 0
        assert not torch.allclose(new[inside], old[inside], atol=0.01)
        assert_close(new[inside].mean(), old[inside].mean(), atol=1e-5, rtol=0)
        assert_close(new[inside].std(), old[inside].std(), atol=1e-4, rtol=0)


def test_an_inversion_reflects_about_the_mean_and_a_gamma_keeps_the_order() -> None:
    image = head(1, 40, 48) + 0.0
    inside = image != 0
    image[inside] += 3.0  # not standardized: the input's own mean is the mirror
    inverted = ImageShifts(ShiftsConfig(inversion=1.0), 2, seed=0)(image)
    assert_close(inverted[inside], 2 * image[inside].mean() - image[inside], atol=1e-4, rtol=0)
    darker = ImageShifts(ShiftsConfig(gamma=1.0), 2, seed=0)(image)
    assert torch.equal(darker[inside].argsort(stable=True), image[inside].argsort(stable=True))


def test_tissue_beside_air_is_not_drawn_towards_it() -> None:
    """All tissue is alike and far from 0: whatever is smoothed, nothing may change."""
    image = torch.where(head(1, 40, 48) != 0, 7.0, 0.0)
    assert_close(ImageShifts(ShiftsConfig(blur=1.0, resolution=1.0), 2, seed=0)(image), image)


def test_a_chance_of_zero_is_the_identity_bit_for_bit() -> None:
    image = head(1, 40, 48)
    assert ImageShifts(ShiftsConfig(), 2, seed=0)(image) is image
    seldom = ImageShifts(ShiftsConfig(inversion=1e-9), 2, seed=0)
    assert all(torch.equal(seldom(image), image) for _ in range(5))


def test_a_chance_is_kept() -> None:
    image, shift = head(1, 16, 16), ImageShifts(ShiftsConfig(inversion=0.3), 2, seed=0)
    assert 0.24 < np.mean([not torch.equal(shift(image), image) for _ in range(600)]) < 0.36


def test_equal_seeds_shift_alike_and_one_kind_does_not_disturb_another() -> None:
    image, half = head(1, 40, 48), replace(EVERYTHING, inversion=0.5)

    def draw(shifts: ShiftsConfig, seed: int) -> list[Tensor]:
        shift = ImageShifts(shifts, 2, seed)
        return [shift(image) for _ in range(6)]

    assert_close(draw(half, 3), draw(half, 3), rtol=0, atol=0)
    assert not any(
        torch.equal(one, other) for one, other in zip(draw(half, 3), draw(half, 4), strict=True)
    )
    alone, beside = (
        draw(ShiftsConfig(inversion=0.5), 3),
        draw(ShiftsConfig(inversion=0.5, gamma=1e-9), 3),
    )
    assert_close(alone, beside, rtol=0, atol=0)
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    draw(EVERYTHING, 0)
    assert np.array_equal(state[0], np.random.get_state()[1]) and torch.equal(
        state[1], torch.get_rng_state()
    )


@pytest.mark.parametrize(
    "image",
    [torch.zeros(1, 16, 16), torch.where(head(1, 16, 16) != 0, 2.0, 0.0), torch.ones(1, 16, 16)],
)
def test_air_alone_and_flat_images_stay_finite(image: Tensor) -> None:
    shifted = ImageShifts(EVERYTHING, 2, seed=0)(image)
    assert_close(shifted, image)


def test_a_channel_of_air_does_not_spoil_the_others() -> None:
    image = head(2, 40, 48)
    image[0] = 0
    shifted = ImageShifts(EVERYTHING, 2, seed=0)(image)
    assert (
        not shifted[0].any()
        and shifted[1].isfinite().all()
        and not torch.allclose(shifted[1], image[1])
    )


@pytest.mark.parametrize(("shape", "dims"), [((16, 16), 2), ((1, 16, 16), 3), ((2, 1, 16, 16), 2)])
def test_an_ill_shaped_image_is_refused(shape: tuple[int, ...], dims: int) -> None:
    with pytest.raises(ValueError, match="axes are needed"):
        ImageShifts(EVERYTHING, dims, seed=0)(torch.ones(shape))


def test_redrawn_statistics_are_as_far_away_as_those_of_the_batch() -> None:
    """E and Var over draws are the paper's; without its own statistics a sample is as it was."""
    features = random(4, 3, 9, 8) * torch.tensor([0.5, 1.0, 2.0, 1.5])[
        :, None, None, None
    ] + random(4, 3, 1, 1, seed=1)
    spread = torch.tensor([0.0, 1.0, 3.0])
    generator = np.random.default_rng(0)
    drawn = torch.stack(
        [redraw_statistics(features, generator, spread, spread) for _ in range(4000)]
    )
    for old, new in (
        (features.mean((2, 3)), drawn.mean((3, 4))),
        (features.std((2, 3), unbiased=False), _slope(drawn, features)),
    ):
        assert_close(new.mean(0), old, atol=0.1, rtol=0)
        assert_close(new.var(0), ((1 + spread) * old.var(0)).expand_as(old), atol=0, rtol=0.15)
    assert_close(
        _standardized(drawn[0]) * _slope(drawn[:1], features)[0].sign()[..., None, None],
        _standardized(features),
        atol=1e-3,
        rtol=0,
    )


def _slope(drawn: Tensor, features: Tensor) -> Tensor:
    """The gamma of each draw, with its sign."""
    own = features - features.mean((2, 3), keepdim=True)
    return (
        (drawn * own).sum((3, 4)) / own.square().sum((2, 3)) * features.std((2, 3), unbiased=False)
    )


def _standardized(features: Tensor) -> Tensor:
    return (features - features.mean((-2, -1), keepdim=True)) / features.std(
        (-2, -1), unbiased=False, keepdim=True
    )


def test_alike_samples_are_left_nearly_as_they_are() -> None:
    features = random(1, 3, 8, 8).expand(4, -1, -1, -1)
    assert_close(redraw_statistics(features, np.random.default_rng(0)), features, atol=0.02, rtol=0)
    assert_close(mix_statistics(features, np.random.default_rng(0)), features)


def test_mixed_statistics_lie_between_those_of_two_samples() -> None:
    features = torch.cat([random(1, 2, 8, 8), 3 * random(1, 2, 8, 8, seed=1) + 5])
    means, seen = features.mean((2, 3)), []
    for seed in range(40):
        mixed = mix_statistics(features, np.random.default_rng(seed))
        assert_close(_standardized(mixed), _standardized(features), atol=1e-3, rtol=0)
        shares = (mixed.mean((2, 3)) - means.flip(0)) / (means - means.flip(0))
        assert_close(
            shares[:, :1].expand(-1, 2), shares, atol=1e-3, rtol=0
        )  # one share for all channels of a sample
        seen.append(shares[:, 0])
    shares = torch.cat(seen)
    assert shares.min() > -1e-3 and shares.max() < 1 + 1e-3
    assert (shares < 0.1).any() and (shares > 0.9).any()


def test_ill_shaped_features_and_spreads_are_refused() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="needs two"):
        redraw_statistics(random(1, 3, 8, 8), generator)
    with pytest.raises(ValueError, match="3 channels"):
        redraw_statistics(random(2, 3, 8, 8), generator, torch.ones(2))


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    """A network of `conf/` and four images of differing contrast."""
    config = load_config([f"model={name}", *NETWORKS[name]])
    torch.manual_seed(0)
    network = instantiate(config.model)
    for weight in network.parameters():
        if not weight.detach().any():
            nn.init.normal_(weight, std=0.1)  # a classifier that starts at zero, say
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()  # so that only the shifts tell two passes apart
    scale = torch.tensor([0.7, 0.9, 1.1, 1.3]).reshape(-1, *(1,) * (config.data.spatial_dims + 1))
    return network, scale * random(4, config.data.channels, *config.data.patch)


def count_hooks(network: nn.Module) -> int:
    return sum(
        len(layer._forward_pre_hooks) + len(layer._forward_hooks) for layer in network.modules()
    )


@pytest.mark.parametrize("feature", ["fedfa", "mixstyle"])
@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_shifted_in_training_and_not_in_evaluation(name: str, feature: Any) -> None:
    network, batch = network_of(name)
    shifts = replace(FEDFA, feature=feature)
    with torch.no_grad():
        plain = network(batch)

        def forward(seed: int, shifts: ShiftsConfig = shifts) -> Tensor:
            with feature_shifts(network, shifts, seed):
                return network(batch)

        shifted = forward(1)
        assert shifted.isfinite().all() and (shifted - plain).norm() > 0.005 * plain.norm()
        assert torch.equal(shifted, forward(1)) and not torch.equal(shifted, forward(2))
        assert torch.equal(plain, forward(1, ShiftsConfig())) and torch.equal(
            plain, forward(1, replace(shifts, feature_probability=0.0))
        )
        assert count_hooks(network) == 0 and torch.equal(plain, network(batch))
        network.eval()
        assert torch.equal(network(batch), forward(1))


@pytest.mark.parametrize(
    ("name", "stages"),
    [("unet_2d", 3), ("densenet_2d", 3), ("efficientnet_lite0", 5), ("segresnet", 4)],
)
def test_one_shift_for_each_stage_on_the_way_down(name: str, stages: int) -> None:
    network, batch = network_of(name)
    with torch.no_grad(), feature_shifts(network, FEDFA, seed=0) as shifter:
        network(batch)
    statistics = shifter.statistics()
    assert len(statistics) == 2 * stages
    assert all(tensor.dtype == torch.float32 and tensor.ndim == 1 for tensor in statistics.values())


class Fork(nn.Module):
    """Two convolutions read the same features, as in a residual unit, and a path goes around."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = (
            nn.Conv2d(1, 2, 1),
            nn.Conv2d(2, 2, 1, bias=False),
            nn.Conv2d(2, 2, 1, bias=False),
        )
        for side in (self.left, self.right):
            nn.init.dirac_(side.weight)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.first(image)
        return features, self.left(features), self.right(features)


def test_what_is_shifted_is_what_enters_the_convolutions() -> None:
    torch.manual_seed(0)
    network, batch = Fork(), random(3, 1, 6, 6) * torch.tensor([1.0, 2.0, 3.0])[:, None, None, None]
    with feature_shifts(network, FEDFA, seed=5) as shifter:
        features, left, right = network(batch)
    generator = np.random.default_rng(5)
    generator.random()  # whether the layer is shifted at all
    assert_close(left, redraw_statistics(features, generator))
    assert torch.equal(left, right) and torch.equal(features, network.first(batch))
    assert_close(shifter.statistics()["left.mean"], features.mean((0, 2, 3)))
    left.sum().backward()
    assert network.first.weight.grad is not None and network.first.weight.grad.isfinite().all()


def test_statistics_run_with_a_momentum_of_099() -> None:
    torch.manual_seed(0)
    network, batches = Fork(), [random(3, 1, 6, 6, seed=seed) + seed for seed in range(3)]
    with (
        torch.no_grad(),
        feature_shifts(network, replace(FEDFA, feature_probability=0.0), seed=0) as shifter,
    ):
        assert shifter.statistics() == {}
        seen = [network(batch)[0] for batch in batches]
    means = [features.mean((0, 2, 3)) for features in seen]
    deviations = [features.std((2, 3), unbiased=False).mean(0) for features in seen]
    for name, (first, second, third) in (("left.mean", means), ("left.deviation", deviations)):
        assert_close(
            shifter.statistics()[name],
            0.99 * (0.99 * first + 0.01 * second) + 0.01 * third,
            atol=1e-4,
            rtol=1e-4,
        )


def test_one_sample_is_left_as_it_is() -> None:
    network, batch = Fork(), random(1, 1, 6, 6)
    for feature in ("fedfa", "mixstyle"):
        with feature_shifts(network, replace(FEDFA, feature=feature), seed=0):
            features, left, _ = network(batch)
        assert torch.equal(features, left)


def test_a_network_that_fails_keeps_no_hook() -> None:
    network = Fork()
    with pytest.raises(RuntimeError), feature_shifts(network, FEDFA, seed=0):
        network(random(2, 3, 6, 6))
    assert count_hooks(network) == 0


def test_the_spread_among_hospitals_reaches_the_network() -> None:
    torch.manual_seed(0)
    network, batch = Fork(), random(3, 1, 6, 6) * torch.tensor([1.0, 2.0, 3.0])[:, None, None, None]

    def forward(spread: Any) -> Tensor:
        with torch.no_grad(), feature_shifts(network, FEDFA, seed=5, spread=spread):
            return network(batch)[1]

    none = {"left.mean": torch.zeros(2), "left.deviation": torch.zeros(2)}
    assert torch.equal(forward(None), forward(none))
    wide = forward({**none, "left.mean": torch.tensor([0.0, 8.0])})
    assert torch.equal(wide[:, 0], forward(None)[:, 0])
    shift, plain = (each[:, 1] - network.first(batch)[:, 1] for each in (wide, forward(None)))
    assert_close(
        shift.mean((1, 2)), 3 * plain.mean((1, 2)), atol=1e-4, rtol=1e-4
    )  # the root of 1 + 8
    with pytest.raises(ValueError, match=r"nowhere\.mean"):
        forward({"nowhere.mean": torch.zeros(2)})
    with pytest.raises(ValueError, match="2 channels"):
        forward({"left.mean": torch.zeros(3)})


def test_a_network_without_a_place_for_shifts_is_said() -> None:
    with (
        pytest.raises(ConfigError, match="no convolution"),
        feature_shifts(nn.Conv2d(1, 2, 1), FEDFA, seed=0),
    ):
        pass
    with feature_shifts(nn.Linear(1, 2), ShiftsConfig(), seed=0) as shifter:
        assert shifter.statistics() == {}


def test_the_spread_is_the_papers() -> None:
    """Variances of 1, 3 and 0 among hospitals: h is 1/2, 3/4, 0, and g = 3 h / (5/4)."""
    one = {"a.mean": torch.tensor([-1.0, 3**0.5, 4.0])}
    other = {"a.mean": torch.tensor([1.0, -(3**0.5), 4.0])}
    expected = {"a.mean": torch.tensor([1.2, 1.8, 0.0])}
    assert_close(client_spread([one, other]), expected, atol=1e-4, rtol=0)
    assert_close(client_spread([other, one]), client_spread([one, other]), rtol=0, atol=0)
    assert_close(client_spread([one, one, one]), {"a.mean": torch.ones(3)})


@pytest.mark.parametrize(
    ("statistics", "said"),
    [
        ([], "needs two"),
        ([{"a.mean": torch.ones(2)}], "needs two"),
        ([{"a.mean": torch.ones(2)}, {"b.mean": torch.ones(2)}], "differ"),
        ([{"a.mean": torch.ones(2)}, {"a.mean": torch.ones(3)}], "differ"),
    ],
)
def test_a_spread_of_what_cannot_be_compared_is_refused(statistics: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        client_spread(statistics)


@pytest.mark.parametrize("training", ["default", "classification", "fine_tuning"])
def test_every_switch_travels_to_the_hospitals_and_is_off_by_default(training: str) -> None:
    model = {
        "default": "unet_2d",
        "classification": "densenet_2d",
        "fine_tuning": "efficientnet_lite0",
    }[training]
    choices = [f"model={model}", *NETWORKS[model]]
    assert load_config(choices).training.shifts == ShiftsConfig()
    changed = [f"training.shifts.{name}=1" for name in (*KINDS, "feature_probability")]
    config = load_config([*choices, *changed, "training.shifts.feature=mixstyle"])
    names, settings = job_settings(config)
    assert {key for key in settings if key.startswith("training.")} == {
        f"training.shifts.{each.name}" for each in fields(ShiftsConfig)
    }
    assert load_job(names, settings).training == config.training


def test_a_switch_can_be_turned_off_where_shifts_are_on() -> None:
    before = load_config(["training=generated_shifts"]).training.shifts
    config = load_config(["training=generated_shifts", "training.shifts.gamma=0"])
    assert job_settings(config)[1] == {"training.shifts.gamma": 0.0}
    assert before.gamma > 0 and config.training.shifts == replace(before, gamma=0.0)


@pytest.mark.parametrize(
    "wrong", ["gamma=1.5", "noise=-0.1", "blur=.nan", "feature=style", "feature_probability=2"]
)
def test_what_is_no_chance_and_no_method_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.shifts\."):
        load_config([f"training.shifts.{wrong}"])
