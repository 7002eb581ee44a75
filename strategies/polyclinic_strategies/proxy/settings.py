"""Settings of the deformation proxy's training: the node `training.proxy` of conf/training/."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from polyclinic.config.schemas import STRICT, Count, TrainingConfig
from polyclinic.errors import ConfigError

NAME = "proxy"
ABOUT = "proxy"  # key of what a segmenter's file says of the proxies that it reads
Weight = Annotated[float, Field(ge=0, le=1e6)]


@dataclass(frozen=True, config=STRICT)
class ProxyConfig:
    """How generator, segmenter and adversary are trained.

    Attributes:
        steps: Number of optimizer steps of all three networks.
        more_segmentation: Number of further steps of the segmenter alone, in the same cycle of the
            learning rate.
        polish: Number of steps of the segmenter alone, in a cycle of its own; not in a federation.
        people: Number of people in a step, with two visits of each.
        keys: Number of proxies of every visit in a step; adversaries also average over them.
        adversaries: Number of adversaries that the generator is trained against.
        memory: Number of past steps whose proxies the adversaries learn from again.
        patch: Voxels of a proxy that the segmenter sees in a step.
        invented_mm: Largest displacement, in mm, by which training images are warped first, so that
            there are more people than scans.
        adversarial: Weight of the adversary in the generator's loss.
        stranger: Weight of looking like nobody.
        smoothness: Weight of a smooth velocity.
        diversity: Weight of different fields for different keys.
        unfolded: Weight of a field that does not fold.
    """

    steps: Count = 600
    more_segmentation: Annotated[int, Field(ge=0, le=1_000_000)] = 300
    polish: Annotated[int, Field(ge=0, le=1_000_000)] = 600
    people: Annotated[int, Field(ge=2, le=1000)] = 4
    keys: Annotated[int, Field(ge=1, le=16)] = 1
    adversaries: Annotated[int, Field(ge=1, le=16)] = 1
    memory: Annotated[int, Field(ge=0, le=1000)] = 0
    patch: tuple[Count, Count, Count] = (48, 48, 48)
    invented_mm: Annotated[float, Field(ge=0, le=50)] = 6.0
    adversarial: Weight = 1.0
    stranger: Weight = 100.0
    smoothness: Weight = 0.3
    diversity: Weight = 0.2
    unfolded: Weight = 10.0


def proxy_settings(training: TrainingConfig) -> ProxyConfig:
    """Find the settings in a training.

    Raises:
        ConfigError: It has none.
    """
    found = training.methods.get(NAME)
    if not isinstance(found, ProxyConfig):
        raise ConfigError("A proxy is trained with training=proxy.")
    return found
