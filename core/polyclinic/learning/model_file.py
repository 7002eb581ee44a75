"""A trained model's file: the network with its weights, and the job that it was trained for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from polyclinic.config.compose import instantiate, load_job
from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.learning.site_tasks import SiteHeadNetwork, SiteTask
from polyclinic.learning.state_dict import load_metadata, load_state


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
    state, metadata = load_state(path)
    described = load_metadata(metadata, path)
    try:
        job = load_job(described["names"], described["settings"])  # type: ignore[arg-type]
        network: nn.Module = instantiate(job.model)
        if "task" in described and isinstance(network, SiteHeadNetwork):
            job = _attach_site_head(network, job, described)
        network.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError, ConfigError) as error:
        raise ModelInvalid(
            f"{path}: does not fit this machine's conf/ ({str(error).splitlines()[0]}). Install the version that wrote it."
        ) from error
    return network.eval(), job


def _attach_site_head(
    network: SiteHeadNetwork, job: JobConfig, described: Mapping[str, Any]
) -> JobConfig:
    """Attach the head of the task that was the hospital's own; return the job with that task."""
    task = SiteTask(**described["task"])
    network.attach_head(task)
    return replace(
        job,
        data=replace(
            job.data, task=task.kind, labels=tuple(described["labels"]), channels=task.channels
        ),
    )
