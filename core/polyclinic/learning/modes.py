"""A network in training or evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
Precision = Literal["auto", "float32", "bfloat16", "float16"]


@contextmanager
def training_mode(network: nn.Module, *, train: bool) -> Iterator[None]:
    """Set training or evaluation mode for a while, then every layer's mode from before."""
    before = [(layer, layer.training) for layer in network.modules()]
    network.train(train)
    try:
        yield
    finally:
        for layer, mode in before:
            layer.training = mode


def bf16_autocast(device: torch.device) -> torch.autocast:
    """Convolve in bfloat16 where the processor multiplies it; elsewhere this changes nothing.

    With volumes in `torch.channels_last_3d` a training step on a processor is then up to ten times
    as fast. Outputs are bfloat16: turn what is to be precise back with `.float()`. Do not train a
    kernel of 3 on an axis of 2 voxels with it: torch 2.13 reads beyond its memory for the weights'
    gradient there, which differs every time and is sometimes NaN.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=_multiplies_bf16(device))


def find_dtype(device: torch.device, precision: Precision) -> torch.dtype:
    """Return the type in which convolutions of a training compute.

    Args:
        device: Of the network.
        precision: `auto` is bfloat16 where the device multiplies it, float16 on an older GPU, and
            float32 elsewhere. float16 is for GPUs alone; elsewhere it counts as `auto`.
    """
    if precision == "float16" and device.type != "cuda":
        precision = "auto"
    if precision != "auto":
        found: torch.dtype = getattr(torch, precision)
        return found
    if _multiplies_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def _multiplies_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 itself, not by way of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def channels_last(network: Network) -> Network:
    """Lay a network's weights out as `bf16_autocast` needs them to be fast; the values stay."""
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def layout_of(image: Tensor) -> torch.memory_format:
    """Return the layout with channels last, of a batch of 2-D or 3-D images."""
    return torch.channels_last if image.ndim == 4 else torch.channels_last_3d
