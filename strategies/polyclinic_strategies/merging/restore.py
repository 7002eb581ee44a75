"""Restoration: adapting a merged model to the images of the hospital that uses it.

No network was ever trained at the sum of task vectors, so the statistics of its normalization
layers do not fit their new inputs. Either they are estimated again from images without labels, or
the model takes a few labelled steps. A comparison is fair only if single hospitals' models get the
same.

The restoration step of task-vector merging, Tian et al. 2024, https://arxiv.org/abs/2408.13038.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain, islice, repeat

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from polyclinic.config.schemas import DataConfig, TrainingConfig
from polyclinic.learning.training import FitResult, device_of, fit

BATCHNORM = nn.modules.batchnorm._BatchNorm


def recalibrate(network: nn.Module, images: Iterable[Float[Tensor, "_ channels ..."]]) -> int:
    """Replace the running statistics of batch normalization by mean and variance over all images.

    The old statistics play no part. While the images pass, layers normalize by each batch as they
    do in training, so batches should be about as large as in training. Every batch counts as many
    times as it has values, so the order and a smaller last batch do not matter.

    Args:
        network: Changed in place: `running_mean`, `running_var` (unbiased) and
            `num_batches_tracked`, nothing else. It stays as it was if a batch fails.
        images: Batches as the network takes them, without labels.

    Returns:
        Number of layers with new statistics. It is 0 if there are no images, or no batch
        normalization with statistics: instance and group normalization have none.

    Raises:
        ValueError: A layer sees a single value per channel in a batch; torch's own message.

    AdaBN, Li et al. 2016, https://arxiv.org/abs/1603.04779.
    """
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, BATCHNORM) and layer.running_mean is not None
    ]
    moments = {layer: _Moments() for layer in layers}
    if not layers:
        return 0
    with _normalizing_by_batch(network, layers), ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(moments[layer].add).remove)
        for image in images:
            network(image.to(device_of(network)))
    seen = {layer: moment for layer, moment in moments.items() if moment.batches}
    for layer, moment in seen.items():
        moment.write(layer)
    return len(seen)


def several_together(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Leave out batches of one image, unless there is no other: a last one may be so small.

    A layer that sees one value per channel cannot normalize by the batch.
    """
    alone, came = None, False
    for batch in batches:
        if len(batch) > 1:
            came = True
            yield batch
        else:
            alone = batch
    if alone is not None and not came:
        yield alone


def fine_tune(
    network: nn.Module,
    loader: DataLoader[dict[str, Tensor]],
    training: TrainingConfig,
    data: DataConfig,
    steps: int,
) -> FitResult | None:
    """Train in place for exactly `steps` batches, whatever `training` says of steps.

    Args:
        network: Changed in place.
        loader: From `loading.samples.training_loader`; read again from the start if it has fewer
            batches.
        training: Optimizer and loss.
        data: For the number of samples drawn from one case.
        steps: Number of batches; 0 leaves the network as it is.

    Returns:
        What was done; None if `steps` is 0.

    Raises:
        ValueError: `steps` is negative.
        ConfigError: The loss or the weights stopped being finite.
    """
    if steps < 0:
        raise ValueError(f"{steps} steps of restoration: at least 0")
    if steps == 0:
        return None
    few = DataLoader(
        loader.dataset,
        batch_sampler=_Some(loader, steps),
        generator=loader.generator,
        collate_fn=loader.collate_fn,
    )
    return fit(network, few, replace(training, epochs=1, steps=0), data)


class _Moments:
    """Count, sum and sum of squares of the inputs of one layer, per channel, in float64."""

    def __init__(self) -> None:
        self.batches, self.count = 0, 0
        self.sum, self.squares = torch.zeros(()), torch.zeros(())

    def add(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().double().transpose(0, 1).flatten(1)  # (channels, rest)
        self.batches, self.count = self.batches + 1, self.count + values.shape[1]
        self.sum = self.sum.to(values) + values.sum(1)
        self.squares = self.squares.to(values) + values.square().sum(1)

    def write(self, layer: nn.Module) -> None:
        mean = self.sum / self.count
        biased = (self.squares / self.count - mean.square()).clamp(min=0)
        variance = biased * self.count / max(1, self.count - 1)
        state = {
            "running_mean": mean,
            "running_var": variance,
            "num_batches_tracked": torch.tensor(self.batches),
        }
        for name, buffer in layer.named_buffers():
            buffer.copy_(state[name])


@contextmanager
def _normalizing_by_batch(network: nn.Module, layers: list[BATCHNORM]) -> Iterator[None]:
    """Make these layers normalize by each batch and keep no statistics.

    Everything else, such as dropout, is in evaluation mode.
    """
    before = [(layer, layer.training) for layer in network.modules()]
    tracked = [layer.track_running_stats for layer in layers]
    network.eval()
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer, tracks in zip(layers, tracked, strict=True):
            layer.track_running_stats = tracks
        for each, mode in before:
            each.training = mode


class _Some(Sampler[list[int]]):
    """The first batches of a loader, as indices, pass after pass."""

    def __init__(self, loader: DataLoader[dict[str, Tensor]], batches: int) -> None:
        self.source, self.batches = loader.batch_sampler, batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        assert self.source is not None
        passes = repeat(self.source)
        return islice(chain.from_iterable(passes), self.batches)
