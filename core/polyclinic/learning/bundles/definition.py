"""A trained network as a bundle's `network_def`: a class of MONAI, its arguments and weights."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from polyclinic.config.bundles.flat import flatten, unflatten
from polyclinic.config.bundles.network import check_name
from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError
from polyclinic.learning.bundles.network import bundle_network
from polyclinic.learning.networks.dynunet import dynunet_arguments
from polyclinic.learning.state_dict import StateDict

MONAI = "monai.networks.nets."
SUPERVISION = ("deep_supervision", "deep_supr_num")  # of training alone
HEADS = "deep_supervision_heads."  # tensors of outputs that only training has
ALIASES = "skip_layers."  # DynUNet's second names of its blocks
Arguments = dict[str, Any]


def define_network(job: JobConfig, network: nn.Module) -> tuple[dict[str, Any], StateDict]:
    """Describe a network as MONAI makes it.

    Args:
        job: What the network was made for.
        network: With its weights.

    Returns:
        `_target_` and arguments, and the weights by MONAI's names.

    Raises:
        ConfigError: It is none of the networks of MONAI that a bundle may name.
    """
    model = dict(job.model)
    target = str(model.pop("_target_"))
    if target in _OURS:
        name, arguments = _OURS[target](model)
    elif target.startswith(MONAI):
        name, arguments = target.removeprefix(MONAI), model
    else:
        raise ConfigError(
            f"{target.rpartition('.')[2]} is polyclinic's own network, and a bundle names one of "
            "MONAI's. Use `polyclinic-client predict` with this model, or train one of MONAI's: "
            "model=unet, segresnet, densenet or dynunet."
        )
    name = check_name(name)
    made = bundle_network(name, flatten(arguments))
    found = made.load_state_dict(network.state_dict(), strict=False)
    missing = [key for key in found.missing_keys if not key.startswith(ALIASES)]
    more = [key for key in found.unexpected_keys if not key.startswith(HEADS)]
    if missing or more:
        first = (missing + more)[0]
        raise ConfigError(f"MONAI's {name} has not the weights of this model: {first}.")
    return {"_target_": name, **_plain(arguments)}, made.state_dict()


def _planned(model: Mapping[str, Any]) -> tuple[str, Arguments]:
    """Write out the topology of a planned network."""
    arguments = {key: value for key, value in model.items() if key not in SUPERVISION}
    return "DynUNet", dynunet_arguments(**arguments)


def _bundled(model: Mapping[str, Any]) -> tuple[str, Arguments]:
    """Return what the network's own bundle said."""
    return str(model["network"]), unflatten(model["arguments"])


_OURS: dict[str, Callable[[Mapping[str, Any]], tuple[str, Arguments]]] = {
    "polyclinic.learning.networks.dynunet.PlannedUNet": _planned,
    "polyclinic.learning.bundles.network.bundle_network": _bundled,
}


def _plain(value: Any) -> Any:
    """Turn tuples into lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
