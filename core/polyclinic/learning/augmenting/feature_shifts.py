"""Generated shifts of features: channel statistics are drawn anew (FedFA) or mixed (MixStyle).

Where this happens matters. What enters an instance normalization is normalized away again, and what
leaves one has the same statistics for every sample, so nothing could be learned from their spread.
The shift is therefore applied to what enters a convolution that mixes channels, behind the
normalization and the activation, and as in FedFA's U-Net once at the start of every stage on the
way
down: at the first convolution, after the image's own, that sees fewer places than any before it.
Skip connections and the way up carry what was not shifted.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyclinic.config.schemas import ShiftsConfig
from polyclinic.errors import ConfigError
from polyclinic.learning.state_dict import StateDict

# both parameters of MixStyle's beta distribution: mostly one sample's style, rarely half and half
MIXING = 0.1
MOMENTUM = 0.99  # of the running statistics
EPSILON = 1e-6  # added to variances, as in FedFA
MEAN, DEVIATION = ".mean", ".deviation"  # endings of the names of statistics

_Convolution = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)


def redraw_statistics(
    features: Float[Tensor, "batch channels *places"],
    random: np.random.Generator,
    mean_spread: Tensor | None = None,
    deviation_spread: Tensor | None = None,
) -> Float[Tensor, "batch channels *places"]:
    """Draw each sample's channel statistics anew around its own, as widely as the batch's differ.

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
    """Mix each sample's channel statistics with another's, in shares drawn from Beta(0.1, 0.1).

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
    """Shifts of features while a network trains, and what they have seen."""

    def __init__(self, shifts: ShiftsConfig, seed: int, spread: Mapping[str, Tensor]) -> None:
        self.shifts, self.spread = shifts, spread
        self._random = np.random.default_rng(seed)
        self._running: StateDict = {}
        self._training, self._fewest = False, 0
        # in this pass: what entered, and what it became
        self._met: list[tuple[Tensor, Tensor]] = []

    def statistics(self) -> StateDict:
        """Return running means, with momentum 0.99, of the channels' means and deviations.

        They are of what entered each layer before any shift of this layer.

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
        """Shift what enters a stage's first convolution, and others that see the same tensor."""
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
    """Shift a network's features for a while, in training mode alone.

    Afterwards nothing of it is left in the network.

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
            f"training.shifts.feature={shifts.feature}: this network has no convolution behind its "
            "first one."
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
    """Compute how much each channel differs among hospitals, compared with the layer's others.

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


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation over the places, each of shape (batch, channels)."""
    flat = features.flatten(2)
    return flat.mean(2), (flat.var(2, unbiased=False) + EPSILON).sqrt()


def _spatial(statistic: Tensor, features: Tensor) -> Tensor:
    return statistic.reshape(*statistic.shape, *(1,) * (features.ndim - 2))
