"""Statistics of a network's layers over a hospital's images, for merging rules that need them.

Gram matrices of layers' inputs (RegMean) and the diagonal of the Fisher information (Fisher
merging). Both are means over the hospital's training subjects, each of equal weight: they tell a
coordinator which directions of the weights matter there. They leave the hospital only if the rule
asks for them, and neither side demands more subjects or noise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import default_collate

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import ShiftsConfig, TrainingConfig
from polyclinic.federation.hospital import LayerStatistic
from polyclinic.imaging.subjects import number_subjects
from polyclinic.learning.loading.samples import TrainingSamples
from polyclinic.learning.modes import training_mode
from polyclinic.learning.preparation import PreparedSite
from polyclinic.learning.state_dict import StateDict
from polyclinic.learning.training import device_of

GRAM, FISHER = "gram", "fisher"
BATCHES = 8  # of a contribution
INPUTS = 4096  # a layer with more inputs has a Gram matrix of more than 64 MiB
_AT_ONCE = 2**22  # unfolded numbers in memory, in float64

Batches = Iterable[Mapping[str, Tensor]]  # as `loading.samples.training_loader` yields them
_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def measure_gram(
    network: nn.Module, prepared: PreparedSite, training: TrainingConfig, seed: int
) -> StateDict:
    """Compute the mean over all training subjects of `gram_matrices`, without shifts."""
    batches = subject_batches(prepared, training, seed)
    return _mean(gram_matrices(network, [batch], 1) for batch in batches)


def measure_fisher(
    network: nn.Module, prepared: PreparedSite, training: TrainingConfig, seed: int
) -> StateDict:
    """Compute the mean over all training subjects of `fisher_diagonal`, without shifts."""
    batches = subject_batches(prepared, training, seed)
    return _mean(fisher_diagonal(network, [batch], training, 1) for batch in batches)


def subject_batches(
    prepared: PreparedSite, training: TrainingConfig, seed: int
) -> Iterator[Mapping[str, Tensor]]:
    """Yield a batch of samples for each training subject, as `training_loader` would.

    Together they are about `BATCHES` batches, and at least one sample of each subject.
    """
    plain = TrainingSamples(prepared.training, prepared.data, seed, ShiftsConfig())
    each = prepared.data.samples_per_case
    samples: dict[int, list[int]] = {}
    for case, subject in enumerate(number_subjects(prepared.training.cases)):
        samples.setdefault(subject, []).extend(range(case * each, (case + 1) * each))
    most = max(1, BATCHES * training.batch_size // len(samples))
    for indices in samples.values():
        chosen = indices[:: max(1, len(indices) // most)][:most]  # of all the subject's cases
        yield default_collate([plain[index] for index in chosen])


def gram_matrices(
    network: nn.Module, loader: Batches, batches: int, *, max_inputs: int = INPUTS
) -> StateDict:
    """Compute second moments of what enters each layer: G = X^T X / rows.

    Layers are linear or convolutional.

    Args:
        network: Read in evaluation mode; left as it was.
        loader: Batches with `image`; labels are not looked at.
        batches: How many of them at most.
        max_inputs: Layers with more inputs than this are left out, as their matrices would be
            large.

    Returns:
        `gram/NAME` for the weight called NAME: float32, (inputs, inputs), inputs = numel of
        weight[0], on the CPU. The rows of X are the vectors that the weight, as a matrix of
        (outputs, inputs), is multiplied with: features of a linear layer, unfolded patches of a
        convolution. Grouped and transposed convolutions, and layers that saw no input, have no
        entry.

    Raises:
        ValueError: `batches` is not positive.

    RegMean, Jin et al. 2022, https://arxiv.org/abs/2212.09849.
    """
    layers = {
        f"{name}.weight".lstrip("."): layer
        for name, layer in network.named_modules()
        if _has_gram(layer, max_inputs)
    }
    sums: StateDict = {}
    rows: dict[str, int] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for part in _rows(layer, inputs[0].detach()):
                exact = part.double()
                sums[name] = sums[name].addmm_(exact.T, exact) if name in sums else exact.T @ exact
                rows[name] = rows.get(name, 0) + len(part)

        return record

    with ExitStack() as hooks, training_mode(network, train=False), torch.no_grad():
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(recorder(name)).remove)
        for batch in _first(loader, batches):
            network(batch["image"].to(device_of(network)))
    return {f"{GRAM}/{name}": (total / rows[name]).float().cpu() for name, total in sums.items()}


def fisher_diagonal(
    network: nn.Module, loader: Batches, training: TrainingConfig, batches: int
) -> StateDict:
    """Compute the mean squared gradient of each sample's log-likelihood.

    It tells how much the network's answers depend on each weight.

    Args:
        network: Read in evaluation mode; left as it was, gradients included.
        loader: Batches with `image` and `label`: the empirical Fisher information, at the labels as
            they are.
        training: Its loss, of one sample, is taken as minus the log-likelihood. That is exact for
            cross entropy; for a Dice loss it is the likelihood that training pretends.
        batches: How many batches at most.

    Returns:
        `fisher/NAME` for each trained parameter called NAME: float32, the parameter's shape, on the
        CPU.

    Raises:
        ValueError: `batches` is not positive, or the loader yields nothing.

    Fisher merging, Matena and Raffel 2021, https://arxiv.org/abs/2111.09832.
    """
    weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    totals = {
        name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()
    }
    loss_of, device, samples = instantiate(training.loss), device_of(network), 0
    with training_mode(network, train=False), torch.enable_grad():
        for batch in _first(loader, batches):
            for image, label in zip(
                batch["image"].to(device), batch["label"].to(device), strict=True
            ):
                loss = loss_of(network(image[None]), label[None])
                slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                for total, slope in zip(totals.values(), slopes, strict=True):
                    if slope is not None:
                        total.add_(slope.double().square())
                samples += 1
    if samples == 0:
        raise ValueError("the loader yields nothing")
    return {f"{FISHER}/{name}": (total / samples).float().cpu() for name, total in totals.items()}


def _windows(
    layer: _Convolution, image: Float[Tensor, "batch channels *places"]
) -> Float[Tensor, "batch ..."]:
    """Return what a convolution sees: batch, positions, channels, kernel; not copied.

    From the channels on the order is that of its weights.
    """
    axes = range(2, 2 + len(layer.kernel_size))
    around = [value for axis in reversed(axes) for value in _padding(layer, axis - 2)]
    image = nn.functional.pad(
        image, around, "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    )
    for axis, kernel, stride, apart in zip(
        axes, layer.kernel_size, layer.stride, layer.dilation, strict=True
    ):
        image = image.unfold(axis, (kernel - 1) * apart + 1, stride)[..., ::apart]
    return image.permute(0, *axes, 1, *(axis + len(axes) for axis in axes))


def _padding(layer: _Convolution, axis: int) -> tuple[int, int]:
    """Return the padding before and behind."""
    if layer.padding == "same":
        total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        return total // 2, total - total // 2
    size = 0 if isinstance(layer.padding, str) else int(layer.padding[axis])
    return size, size


def _has_gram(layer: nn.Module, max_inputs: int) -> bool:
    plain = isinstance(layer, nn.Linear) or (isinstance(layer, _Convolution) and layer.groups == 1)
    return plain and isinstance(layer.weight, Tensor) and layer.weight[0].numel() <= max_inputs


def _rows(layer: nn.Module, entering: Tensor) -> Iterator[Float[Tensor, "rows inputs"]]:
    """Yield the vectors that enter a layer, in parts that fit into memory."""
    if not isinstance(layer, _Convolution):
        rows = entering.reshape(-1, entering.shape[-1])
        yield from torch.split(rows, max(1, _AT_ONCE // rows.shape[1]))
        return
    inputs, axes = layer.weight[0].numel(), len(layer.kernel_size)
    for image in entering if entering.ndim == axes + 2 else entering[None]:
        windows = _windows(layer, image[None])
        for part in torch.split(
            windows, max(1, _AT_ONCE * windows.shape[1] // windows.numel()), dim=1
        ):
            yield part.reshape(-1, inputs)


def _first(loader: Batches, batches: int) -> Iterator[Mapping[str, Tensor]]:
    if batches < 1:
        raise ValueError(f"{batches} batches: at least one is needed")
    return islice(iter(loader), batches)


def _mean(found: Iterable[StateDict]) -> StateDict:
    """Average the subjects' tensors by name; one that a subject lacks counts where it is."""
    sums: StateDict = {}
    counts: dict[str, int] = {}
    for tensors in found:
        for name, tensor in tensors.items():
            sums[name] = sums[name] + tensor.double() if name in sums else tensor.double()
            counts[name] = counts.get(name, 0) + 1
    return {name: (total / counts[name]).float() for name, total in sums.items()}


# what a rule may ask for in its `needs`
LAYER_STATISTICS: Mapping[str, LayerStatistic] = {GRAM: measure_gram, FISHER: measure_fisher}
