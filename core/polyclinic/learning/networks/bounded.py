"""Networks of a bounded size: one that somebody else describes may be larger than this machine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

MOST_TENSORS = 100_000  # each layer takes memory and time even if it is small


@contextmanager
def bounded_network(
    most_numbers: float, refuse: Callable[[str], Exception], most_tensors: int = MOST_TENSORS
) -> Iterator[None]:
    """Build no network with more parameters than this: the first layer that is too much raises.

    Args:
        most_numbers: Parameters and buffers of all networks that are built inside.
        refuse: Makes the error, told what is too much.
        most_tensors: Number of these parameters and buffers, whatever their size.
    """
    numbers = tensors = 0

    def count(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        nonlocal numbers, tensors
        if tensor is None:
            return
        numbers, tensors = numbers + tensor.numel(), tensors + 1
        if numbers > most_numbers:
            raise refuse(f"a network of more than {int(most_numbers):,} parameters")
        if tensors > most_tensors:
            raise refuse(f"a network of more than {most_tensors:,} tensors")

    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
