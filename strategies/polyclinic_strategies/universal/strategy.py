"""The universal model's settings: stages, how hospitals contribute, and how one encoder is made of theirs.

Radwan et al. 2024, https://arxiv.org/abs/2407.14719.
"""

from dataclasses import dataclass, replace
from typing import Any

from polyclinic.config.compose import instantiate, list_names, load_config
from polyclinic.config.schemas import Part
from polyclinic.errors import ConfigError
from polyclinic_strategies.merging.publisher import make_rules
from polyclinic_strategies.merging.strategy import Merging
from polyclinic_strategies.universal.distillation import Distillation
from polyclinic_strategies.universal.settings import UniversalConfig

DISTILLATION = "distillation"
MERGING = "merging/"


@dataclass(frozen=True)
class Universal:
    """How the universal model comes about, as conf/strategy/universal.yaml describes it.

    Args:
        title: Its name in tables.
        stages: In each, hospitals fine-tune the newest encoder, and the next one is made of theirs.
        public: Folder of the coordinator's unlabelled images, for distillation.
        combine: distillation; or a name of conf/strategy/merging/, whose rule merges the encoders.
        contributions: How hospitals contribute: a node of conf/strategy/merging/; its `end` is that of a stage.
        distillation: A node that names `polyclinic_strategies.universal.distillation.Distillation`.
    """

    title: str
    stages: int
    public: str | None
    combine: str
    contributions: Part
    distillation: Part

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ConfigError(f"strategy.stages={self.stages}: at least 1.")
        known = [
            name.removeprefix(MERGING)
            for name in list_names("strategy")
            if name.startswith(MERGING)
        ]
        if self.combine not in (DISTILLATION, *known):
            raise ConfigError(
                f"strategy.combine={self.combine}: one of {', '.join((DISTILLATION, *known))}."
            )
        merging = self.merging()
        if (
            merging.max_staleness
            or merging.candidates
            or merging.restoration != "none"
            or merging.compare
            or merging.controls
        ):
            raise ConfigError(
                "strategy.contributions: the universal model takes no contribution to an older encoder and has nothing that hospitals "
                "could score, restore or compare. Leave max_staleness, candidates, restoration, compare and controls as they are."
            )
        if needs := make_rules(merging.rule, {})[0].needs:
            raise ConfigError(
                f"strategy.combine={self.combine}: it needs statistics ({', '.join(needs)}) that only hospitals of one task can send. "
                "Choose another rule, or distillation."
            )

    @property
    def distils(self) -> bool:
        """Whether the next encoder is taught by the hospitals', rather than merged of them."""
        return self.combine == DISTILLATION

    def merging(self) -> Merging:
        """How hospitals contribute, with the rule that merges."""
        merging: Merging = instantiate(self.contributions, _recursive_=False)
        if self.distils:
            return merging
        return replace(
            merging, rule=load_config([f"strategy={MERGING}{self.combine}"]).strategy["rule"]
        )

    def make_distillation(self) -> Distillation:
        """How the student learns."""
        made: Any = instantiate(self.distillation)
        assert isinstance(made, Distillation)
        return made

    def check(self, learning: UniversalConfig) -> None:
        """See that it fits what hospitals do.

        Raises:
            ConfigError: Public images are missing, or low-rank updates could not be merged.
        """
        if self.distils and self.public is None:
            raise ConfigError(
                "Distillation needs the coordinator's own unlabelled images: strategy.public=FOLDER. Without any, let hospitals learn from "
                "images alone and merge their encoders: training.universal.learn=mim strategy.combine=mean."
            )
        if learning.rank and not self.distils:
            raise ConfigError(
                f"training.universal.rank={learning.rank}: updates of low rank are only distilled. Set rank=0 to merge them."
            )
