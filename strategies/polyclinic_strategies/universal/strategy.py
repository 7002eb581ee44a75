"""Settings of the universal model: stages, contributions, and how one encoder is made.

Radwan et al. 2024, https://arxiv.org/abs/2407.14719.
"""

from dataclasses import dataclass, replace
from typing import Any

from polyclinic.config.compose import instantiate, list_names, load_config
from polyclinic.config.schemas import Part
from polyclinic.errors import ConfigError
from polyclinic.learning.optimizing.schedules import cosine
from polyclinic_strategies.merging.arithmetic.configured import make_rules
from polyclinic_strategies.merging.asking.starts import BASE
from polyclinic_strategies.merging.strategy import Merging
from polyclinic_strategies.universal.distillation import Distillation
from polyclinic_strategies.universal.settings import UniversalConfig

DISTILLATION = "distillation"
MERGING = "merging/"


@dataclass(frozen=True)
class Universal:
    """Settings of the universal model, as `conf/strategy/universal.yaml` describes them.

    Args:
        title: Name in tables.
        stages: Number of stages. In each, hospitals fine-tune the newest encoder, and the next
            encoder is made from theirs.
        public: Folder of the coordinator's unlabelled images, for distillation.
        combine: distillation; or a name of `conf/strategy/merging/`, whose rule merges the
            encoders.
        contributions: How hospitals contribute: a node of `conf/strategy/merging/`; its `end` is
            that of a stage.
        library: Whether the encoders of the last stage's hospitals are kept beside the universal
            one, in a file that the coordinator can hand to hospitals.
        falling: Whether the learning rate of hospitals falls from stage to stage too.
        distillation: A node that names `polyclinic_strategies.universal.distillation.Distillation`.
    """

    title: str
    stages: int
    public: str | None
    combine: str
    contributions: Part
    distillation: Part
    library: bool = False
    falling: bool = False

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
        unused = (
            *(merging.max_staleness, merging.candidates, merging.compare, merging.controls),
            *(merging.rank, merging.alternatives, merging.start != BASE),
        )
        if any(unused) or merging.restoration != "none":
            raise ConfigError(
                "strategy.contributions: the universal model takes no contribution to an older "
                "encoder and has nothing that hospitals could score, restore or compare. Leave "
                "max_staleness, start, candidates, alternatives, restoration, rank, compare and "
                "controls as they are (training.rank makes thin updates)."
            )
        if needs := make_rules(merging.rule, {})[0].needs:
            raise ConfigError(
                f"strategy.combine={self.combine}: it needs statistics ({', '.join(needs)}) that "
                "only hospitals of one task can send. Choose another rule, or distillation."
            )

    @property
    def distils(self) -> bool:
        """Whether the next encoder is distilled from the hospitals', rather than merged."""
        return self.combine == DISTILLATION

    def share(self, stage: int) -> float:
        """Return the share of the highest learning rate with which a stage begins, from 1.

        It falls along a cosine over the stages, or not at all.
        """
        if not self.falling:
            return 1.0
        return cosine((stage - 1) / self.stages)

    def merging(self) -> Merging:
        """Return how hospitals contribute, with the rule that merges."""
        merging: Merging = instantiate(self.contributions, _recursive_=False)
        if self.distils:
            return merging
        node = load_config([f"strategy={MERGING}{self.combine}"]).strategy
        return replace(merging, rule=node["rule"])

    def make_distillation(self) -> Distillation:
        """Return the settings of distillation."""
        made: Any = instantiate(self.distillation)
        assert isinstance(made, Distillation)
        return made

    def check(self, learning: UniversalConfig) -> None:
        """Check that the settings fit those of the hospitals.

        Raises:
            ConfigError: Public images are missing, or low-rank updates could not be merged.
        """
        if self.distils and self.public is None:
            raise ConfigError(
                "Distillation needs the coordinator's own unlabelled images: "
                "strategy.public=FOLDER. Without any, let hospitals learn from images alone and "
                "merge their encoders: training.universal.learn=mim strategy.combine=mean."
            )
        if learning.rank and not self.distils:
            raise ConfigError(
                f"training.universal.rank={learning.rank}: low-rank updates can only be "
                "distilled. Set rank=0 to merge."
            )
