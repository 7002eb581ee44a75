"""Generated domain shifts: images and features as another scanner or protocol might have made them.

Image level: contrast, bias field, blur, resolution and noise of one sample, drawn anew each time.
Air (what is exactly 0) stays air, and each channel keeps the mean and the standard deviation that
it had inside.

Feature level: the channel statistics of a layer are drawn anew (FedFA) or mixed with another
sample's (MixStyle). Where this happens matters. What enters an instance normalization is normalized
away again, and what leaves one has the same statistics for every sample, so nothing could be
learned from their spread. The shift is therefore applied to what *enters a convolution that mixes
channels*, behind the normalization and the activation, and as in FedFA's U-Net once at the start of
every stage on the way down: at the first convolution, after the image's own, that sees fewer places
than any before it. Skip connections and the way up carry what was not shifted.

Kitrungrotsakul et al. train local models on generated shifts; the paper leaves open which, so these
are our reading of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandLambda,
    RandSimulateLowResolution,
)
from torch import Tensor, nn

from polyclinic.config.schemas import ShiftsConfig
from polyclinic.errors import ConfigError
from polyclinic.imaging.foreground import foreground
from polyclinic.learning.state_dict import StateDict

GAMMA = (0.5, 2.0)
BIAS = (-0.3, 0.3)  # coefficients of a polynomial of degree 3, the logarithm of the field
BLUR = (0.5, 1.5)  # standard deviation in voxels
ZOOM = (0.5, 1.0)  # share of the voxels that are left along each axis
NOISE = 0.1  # largest standard deviation, as a share of the range of intensities
MIXING = 0.1  # both parameters of MixStyle's beta distribution: mostly one sample's style, rarely half and half
MOMENTUM = 0.99  # of the running statistics
EPSILON = 1e-6  # added to variances, as in FedFA
MEAN, DEVIATION = ".mean", ".deviation"  # endings of the names of statistics

_Convolution = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)


class ImageShifts:
    """Shifts images at random; equal seeds shift equal images equally, and one kind's draws do not depend on the other kinds."""

    def __init__(self, shifts: ShiftsConfig, spatial_dims: int, seed: int) -> None:
        """Prepare the shifts.

        Args:
            shifts: The chance of each kind.
            spatial_dims: 2 or 3.
            seed: Of what is drawn.
        """
        self.spatial_dims = spatial_dims
        chances = (
            shifts.inversion,
            shifts.gamma,
            shifts.bias_field,
            shifts.blur,
            shifts.resolution,
            shifts.noise,
        )
        self.active = any(chance > 0 for chance in chances)
        linear = "bilinear" if spatial_dims == 2 else "trilinear"
        kinds = [  # in the order in which an image comes about: tissue, coil, optics, grid, receiver
            RandLambda(_invert, prob=shifts.inversion, track_meta=False),
            RandAdjustContrast(shifts.gamma, GAMMA),
            RandBiasField(coeff_range=BIAS, prob=shifts.bias_field),
            RandGaussianSmooth(BLUR, BLUR, BLUR, prob=shifts.blur),
            RandSimulateLowResolution(shifts.resolution, upsample_mode=linear, zoom_range=ZOOM),
            RandGaussianNoise(shifts.noise, std=NOISE),
        ]
        self._chain = Compose(kinds).set_random_state(seed=seed)

    def __call__(
        self, image: Float[Tensor, "channels *places"]
    ) -> Float[Tensor, "channels *places"]:
        """Shift one image.

        Args:
            image: Left unchanged.

        Returns:
            A new image, or the same one if nothing was drawn: air as it was, the rest with each
                channel's mean and deviation as before.

        Raises:
            ValueError: Not channels and `spatial_dims` axes.
        """
        if image.ndim != self.spatial_dims + 1:
            raise ValueError(
                f"shape {tuple(image.shape)}: channels and {self.spatial_dims} axes are needed"
            )
        if not self.active:
            return image
        inside = foreground(image)[None]
        mean, deviation = _moments_inside(image, inside)
        whole = torch.where(
            inside, image, mean
        )  # tissue beside air is neither darkened nor brightened by it
        low, high = (
            pick(whole.flatten(1), 1).reshape(mean.shape) for pick in (torch.amin, torch.amax)
        )
        unit = (whole - low) / (high - low).clamp(min=EPSILON)  # 0 .. 1, as a bias field multiplies
        shifted = torch.as_tensor(self._chain(unit)).as_subclass(Tensor)
        if torch.equal(shifted, unit):
            return image
        new_mean, new_deviation = _moments_inside(shifted, inside)
        restored = (shifted - new_mean) * (deviation / new_deviation.clamp(min=EPSILON)) + mean
        return torch.where(inside, restored, image)


def redraw_statistics(
    features: Float[Tensor, "batch channels *places"],
    random: np.random.Generator,
    mean_spread: Tensor | None = None,
    deviation_spread: Tensor | None = None,
) -> Float[Tensor, "batch channels *places"]:
    """Give each sample channel statistics that are drawn around its own, as far away as the batch's, and the hospitals', differ.

    x <- gamma (x - mu) / sigma + beta with beta ~ N(mu, (g_mu + 1) Var_batch(mu)), gamma ~ N(sigma,
    (g_sigma + 1) Var_batch(sigma)).

    Args:
        features: At least two samples.
        random: What is drawn.
        mean_spread: g_mu, shape (channels,), from `client_spread`; None is 0 (DSU, Li et al. 2022,
            https://arxiv.org/abs/2202.03958).
        deviation_spread: g_sigma, likewise.

    Raises:
        ValueError: Fewer than two samples, or a spread that is not one number a channel.

    FedFA, Zhou and Konukoglu 2023, https://arxiv.org/abs/2301.12995.
    """
    if len(features) < 2:
        raise ValueError("one sample: the variance over a batch needs two")
    mean, deviation = _moments(features)
    drawn = []
    for statistic, spread in ((mean, mean_spread), (deviation, deviation_spread)):
        if spread is not None and spread.shape != statistic.shape[1:]:
            raise ValueError(
                f"a spread of shape {tuple(spread.shape)} for {statistic.shape[1]} channels"
            )
        factor = 1.0 if spread is None else 1.0 + spread.to(statistic)
        around = (factor * (statistic.var(0) + EPSILON)).sqrt()
        noise = torch.from_numpy(random.standard_normal(tuple(statistic.shape), np.float32)).to(
            statistic
        )
        drawn.append(statistic + noise * around)
    beta, gamma = (_spatial(each, features) for each in drawn)
    return gamma * (features - _spatial(mean, features)) / _spatial(deviation, features) + beta


def mix_statistics(
    features: Float[Tensor, "batch channels *places"], random: np.random.Generator
) -> Float[Tensor, "batch channels *places"]:
    """Give each sample channel statistics between its own and those of another of the batch, in shares drawn from Beta(0.1, 0.1).

    MixStyle, Zhou et al. 2021, https://arxiv.org/abs/2104.02008.
    """
    mean, deviation = (each.detach() for each in _moments(features))
    other = torch.from_numpy(random.permutation(len(features))).to(features.device)
    share = torch.from_numpy(random.beta(MIXING, MIXING, (len(features), 1))).to(features)
    beta, gamma = (
        _spatial(share * own + (1 - share) * own[other], features) for own in (mean, deviation)
    )
    return gamma * (features - _spatial(mean, features)) / _spatial(deviation, features) + beta


class FeatureShifts:
    """What `feature_shifts` does while a network trains, and what it has seen."""

    def __init__(self, shifts: ShiftsConfig, seed: int, spread: Mapping[str, Tensor]) -> None:
        self.shifts, self.spread = shifts, spread
        self._random = np.random.default_rng(seed)
        self._running: StateDict = {}
        self._training, self._fewest = False, 0
        self._met: list[
            tuple[Tensor, Tensor]
        ] = []  # in this pass: what entered, and what it became

    def statistics(self) -> StateDict:
        """Running means over the batches, with momentum 0.99, of the channels' means and deviations before any shift of this layer.

        Returns:
            `NAME.mean` and `NAME.deviation` of each convolution where shifts happen: float32, shape
            (channels,), on the CPU. They start from the first batch.
        """
        return {name: tensor.float().cpu() for name, tensor in self._running.items()}

    def _begin(self, network: nn.Module, _inputs: Any) -> None:
        self._training, self._fewest, self._met = network.training, 2**62, []

    def _end(self, *_: Any) -> None:
        self._training, self._met = False, []

    def _enter(
        self, name: str, _layer: nn.Module, inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...] | None:
        """Shift what enters the first convolution of a stage, and for those beside it that see the same tensor."""
        if not self._training:
            return None
        features = inputs[0]
        for before, after in self._met:
            if before is features:
                return (after, *inputs[1:])
        places = features[0, 0].numel()
        if not self._met:
            self._met.append((features, features))  # the image itself
        elif 1 < places < self._fewest:
            self._fewest = places
            self._met.append((features, self._shift(name, features)))
            return (self._met[-1][1], *inputs[1:])
        return None

    def _shift(self, name: str, features: Tensor) -> Tensor:
        for ending, statistic in zip((MEAN, DEVIATION), _moments(features.detach()), strict=True):
            seen = statistic.mean(0)
            self._running[name + ending] = seen.lerp(
                self._running.get(name + ending, seen), MOMENTUM
            )
        if self._random.random() >= self.shifts.feature_probability or len(features) < 2:
            return features
        if self.shifts.feature == "mixstyle":
            return mix_statistics(features, self._random)
        return redraw_statistics(
            features, self._random, self.spread.get(name + MEAN), self.spread.get(name + DEVIATION)
        )


@contextmanager
def feature_shifts(
    network: nn.Module, shifts: ShiftsConfig, seed: int, spread: Mapping[str, Tensor] | None = None
) -> Iterator[FeatureShifts]:
    """Shift a network's features for a while, in training mode only; afterwards nothing of it is left in the network.

    Args:
        network: Called with a batch of images. A batch of one sample is left as it is.
        shifts: `feature` says how, `feature_probability` the chance of each stage in each batch.
        seed: Of what is drawn; the process's own random state is not touched.
        spread: For `fedfa`, from `client_spread`; None is 0.

    Raises:
        ConfigError: The network has no convolution that could be shifted.
        ValueError: `spread` names something that is not in the network.
    """
    shifter = FeatureShifts(shifts, seed, spread or {})
    layers = {
        name: each
        for name, each in network.named_modules()
        if isinstance(each, _Convolution) and each.groups == 1
    }
    if unknown := set(shifter.spread) - {
        name + ending for name in layers for ending in (MEAN, DEVIATION)
    }:
        raise ValueError(f"{min(unknown)}: not a statistic of this network")
    if shifts.feature != "none" and len(layers) < 2:
        raise ConfigError(
            f"training.shifts.feature={shifts.feature}: this network has no convolution behind its first one."
        )
    with ExitStack() as hooks:
        if shifts.feature != "none":
            hooks.callback(network.register_forward_pre_hook(shifter._begin).remove)
            hooks.callback(network.register_forward_hook(shifter._end, always_call=True).remove)
            for name, layer in layers.items():
                hooks.callback(
                    layer.register_forward_pre_hook(partial(shifter._enter, name)).remove
                )
        yield shifter


def client_spread(statistics: Sequence[Mapping[str, Tensor]]) -> StateDict:
    """How much each channel differs among hospitals, in comparison with the layer's other channels.

    With S_c the variance over hospitals of a channel's statistic, g_c = C * h_c / sum(h) and h_c =
    1 / (1 + 1 / S_c): a layer's mean is 1.

    Args:
        statistics: From `FeatureShifts.statistics`, one for each hospital; their order does not
            matter.

    Returns:
        The same names and shapes.

    Raises:
        ValueError: Fewer than two hospitals, or other names or shapes than the first one's.

    FedFA, Zhou and Konukoglu 2023, https://arxiv.org/abs/2301.12995. Its published code takes one
    variance for the whole layer; this is the formula of the paper.
    """
    if len(statistics) < 2:
        raise ValueError(f"{len(statistics)} hospitals: a variance needs two")
    shapes = [{name: tensor.shape for name, tensor in each.items()} for each in statistics]
    if any(each != shapes[0] for each in shapes):
        raise ValueError("the hospitals' statistics differ in names or shapes")
    spread = {}
    for name in statistics[0]:
        among = (
            torch.stack([each[name].double() for each in statistics]).var(0, unbiased=False)
            + EPSILON
        )
        weight = among / (1 + among)
        spread[name] = (weight / weight.mean()).float()
    return spread


def _invert(image: Tensor) -> Tensor:
    return 1 - image


def _moments_inside(image: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel where `inside`, with as many axes as the image."""
    axes = tuple(range(1, image.ndim))
    count = inside.sum(axes, keepdim=True).clamp(min=1)
    mean = torch.where(inside, image, 0.0).sum(axes, keepdim=True) / count
    square = torch.where(inside, image - mean, 0.0).square().sum(axes, keepdim=True) / count
    return mean, square.sqrt()


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the places, each of shape (batch, channels)."""
    flat = features.flatten(2)
    return flat.mean(2), (flat.var(2, unbiased=False) + EPSILON).sqrt()


def _spatial(statistic: Tensor, features: Tensor) -> Tensor:
    return statistic.reshape(*statistic.shape, *(1,) * (features.ndim - 2))
