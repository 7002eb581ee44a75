"""Settings of the universal model at a hospital: the node `training.universal` of conf/training/.

Hospitals with tasks of their own need a network with a head for each task, and a loss for any task.
"""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from polyclinic.config.schemas import STRICT, Count, Part, TrainingConfig
from polyclinic.errors import ConfigError

NAME = "universal"
NETWORKS = "polyclinic_strategies.universal.networks."


@dataclass(frozen=True, config=STRICT)
class UniversalConfig:
    """What a hospital learns in a stage, and how much of it travels.

    Attributes:
        learn: task, the hospital's own; or mim, masked image modelling, which needs no label and no
            public images.
        rank: Rank of the updates that travel; 0 for the whole encoder.
        mask_ratio: Share of an image that is hidden in masked image modelling.
        mask_size: Side of a hidden cube or square, in voxels.
    """

    learn: Literal["task", "mim"] = "task"
    rank: Annotated[int, Field(ge=0, le=1024)] = 0
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.6
    mask_size: Count = 8


def universal_settings(training: TrainingConfig) -> UniversalConfig:
    """Find the settings in a training; the defaults where it has none."""
    found: Any = training.methods.get(NAME)
    return UniversalConfig() if found is None else found


def check_parts(model: Part, training: TrainingConfig) -> None:
    """Refuse a network without a head for each task, or a loss for one kind of task alone.

    Raises:
        ConfigError: The model or the loss is not one of the universal model's.
    """
    targets = [str(part.get("_target_")) for part in (model, training.loss)]
    if not all(target.startswith(NETWORKS) for target in targets):
        raise ConfigError(
            "data.task=own needs a head that is the hospital's and a loss for any task: "
            "model=universal training=universal."
        )
