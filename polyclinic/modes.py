"""A network in training or evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def training_mode(network: nn.Module, *, train: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; afterwards every layer is in the mode in which it was."""
    before = [(layer, layer.training) for layer in network.modules()]
    network.train(train)
    try:
        yield
    finally:
        for layer, mode in before:
            layer.training = mode
