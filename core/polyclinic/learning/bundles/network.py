"""The network of a bundle: MONAI's own, made of plain values that travelled."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.networks import nets
from torch import nn

from polyclinic.config.bundles.flat import unflatten
from polyclinic.config.bundles.network import check_arguments, check_name
from polyclinic.errors import ConfigError
from polyclinic.learning.networks.bounded import bounded_network
from polyclinic.system.text import first_line

MOST_NUMBERS = 5e8  # parameters; 2 GB in float32
MOST_TENSORS = 10_000  # of parameters
FAULTS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, AssertionError)


def bundle_network(network: str, arguments: Sequence[str]) -> nn.Module:
    """Make a network of MONAI.

    Args:
        network: Its name, of `polyclinic.config.bundles.network`.
        arguments: As `polyclinic.config.bundles.flat` writes them.

    Raises:
        ConfigError: Another name, arguments that this network does not take, or a network that is
            too large.
    """
    if not network:
        raise ConfigError("model=bundle: name the bundle's folder with bundle=FOLDER.")
    name, found = check_name(network), unflatten(arguments)
    if not isinstance(found, dict):
        raise ConfigError("model.arguments: they have no names.")
    check_arguments(found)
    make = getattr(nets, name)
    if "pretrained" in inspect.signature(make).parameters:
        found["pretrained"] = False  # where MONAI would fetch weights from the network
    try:
        _check_size(make, found)
        made = make(**found)
    except (*FAULTS, RecursionError) as error:
        raise ConfigError(
            f"{name} cannot be made with the bundle's arguments: {first_line(error)}"
        ) from error
    assert isinstance(made, nn.Module)
    return made


def _check_size(make: Callable[..., object], arguments: Mapping[str, Any]) -> None:
    """Make a network without its numbers, and draw nothing at random.

    Raises:
        ConfigError: It is too large.
    """
    with (
        torch.random.fork_rng(devices=[]),
        bounded_network(MOST_NUMBERS, _refuse, MOST_TENSORS),
        torch.device("meta"),
    ):
        try:
            make(**arguments)
        except (RuntimeError, NotImplementedError):  # a network that asks for its numbers
            return


def _refuse(asked: str) -> ConfigError:
    return ConfigError(f"The bundle describes {asked}, which is too large.")
