"""A trained model's file: the network with its weights, and the job that it was trained for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from polyclinic.config.compose import instantiate
from polyclinic.config.jobs import load_job
from polyclinic.config.schemas import JobConfig
from polyclinic.config.validation import JobNames, JobSettings, validate
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.learning.networks.bounded import bounded_network
from polyclinic.learning.site_tasks import SiteHeadNetwork, SiteTask
from polyclinic.learning.state_dict import StateDict, load_metadata, load_state
from polyclinic.system.text import first_line

SPARE = 2  # a network may register a tensor again
OPEN = ConfigDict(extra="ignore")  # a file says more of itself, to whoever wrote it


@dataclass(frozen=True, config=OPEN)
class SiteTaskCard:
    """A hospital's own task, as the file of its model says it."""

    kind: Literal["segmentation", "classification"]
    classes: Annotated[int, Field(ge=2, le=65_536)]
    channels: Annotated[int, Field(ge=1, le=1024)]
    dimensions: Annotated[int, Field(ge=2, le=3)]


@dataclass(frozen=True, config=OPEN)
class NetworkCard:
    """What a model's file says of its network.

    Attributes:
        names: Group of conf/ to name.
        settings: Dotted key to value, where a setting differs from what those names say.
        task: The hospital's own task, where its head is in the file.
        labels: Names of that task's classes.
    """

    names: JobNames
    settings: JobSettings
    task: SiteTaskCard | None = None
    labels: tuple[str, ...] = ()


def load_model(path: str | Path) -> tuple[nn.Module, JobConfig]:
    """Load a network with its weights, and what it was trained for.

    Example:
        ```python
        network, job = polyclinic.load_model("model.safetensors")
        logits = network(torch.zeros(1, job.data.channels, *job.data.patch))
        ```

    Args:
        path: File that a run, `export` or `polyclinic.simulate` wrote.

    Returns:
        The network in evaluation mode, which takes BCHWD, or BCHW in 2-D; and its job: what a case
        is, and how it is brought onto the network's grid.

    Raises:
        ModelInvalid: The file is damaged, not ours, or does not fit this machine's conf/.
    """
    path = Path(path)
    return build_model(*load_state(path), path)


def build_model(
    state: StateDict, metadata: Mapping[str, str], path: Path
) -> tuple[nn.Module, JobConfig]:
    """Build a network of the tensors and the metadata of a file.

    Args:
        state: Tensors of one network.
        metadata: Metadata of the file.
        path: The file, for what is said of it.

    Returns:
        As `load_model`.

    Raises:
        ModelInvalid: The metadata is not ours, or does not fit this machine's conf/ or the tensors.
    """
    described = load_metadata(metadata, path)
    most = SPARE * sum(tensor.numel() for tensor in state.values()) + 10_000
    try:
        card = validate(NetworkCard, described)
        job = load_job(card.names, card.settings)
        with bounded_network(most, _refuse):
            network: nn.Module = instantiate(job.model)
            if card.task is not None and isinstance(network, SiteHeadNetwork):
                job = _attach_site_head(network, job, card.task, card.labels)
        network.load_state_dict(state)
    except (TypeError, RuntimeError, ConfigError) as error:
        raise ModelInvalid(
            f"{path}: does not fit this machine's conf/ ({first_line(error)}). Install "
            "the version that wrote it."
        ) from error
    return network.eval(), job


def _attach_site_head(
    network: SiteHeadNetwork, job: JobConfig, own: SiteTaskCard, labels: tuple[str, ...]
) -> JobConfig:
    """Attach the head of the task that was the hospital's own; return the job with that task."""
    if len(labels) != own.classes:
        raise ConfigError(f"{own.classes} classes have {len(labels)} names")
    network.attach_head(SiteTask(own.kind, own.classes, own.channels, own.dimensions))
    data = replace(job.data, task=own.kind, labels=labels, channels=own.channels)
    return replace(job, data=data)


def _refuse(asked: str) -> ConfigError:
    return ConfigError(f"it describes {asked}, and holds fewer")
