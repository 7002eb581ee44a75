"""Multi-Krum: Blanchard et al. 2017, https://arxiv.org/abs/1703.02757."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polyclinic.errors import ConfigError
from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale
from polyclinic_strategies.merging.rules.krum import krum_scores


@dataclass(frozen=True)
class MultiKrum:
    """Average the m task vectors with the best Krum scores.

    Δ = λ/m Σ_{i in the m best} τ_i. Of equal scores, the first names win.

    Args:
        byzantine: f, the number of sites that may send anything; needs N >= 2 f + 3 sites.
        selected: m, at most N; 0 takes N - f - 2, the most for which the paper's guarantee holds.
        scale: λ.

    Raises:
        ValueError: A parameter is out of range.
        ConfigError: There are too few sites.
    """

    byzantine: int = 1
    selected: int = 0
    scale: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset({"distances"})
    robust: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.byzantine >= 0, f"byzantine={self.byzantine}: 0 or more.")
        require(self.selected >= 0, f"selected={self.selected}: 0 or more.")
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        scores = krum_scores(layer.statistics["distances"], self.byzantine)
        count = self.selected or len(scores) - self.byzantine - 2
        if count > len(scores):
            raise ConfigError(
                f"strategy.rule.selected={count}: there are only {len(scores)} hospitals' "
                "contributions. Lower it."
            )
        chosen = scores.argsort(stable=True)[:count].sort().values.tolist()
        total = torch.zeros(layer.base.shape, dtype=torch.float64)
        for site in chosen:
            total += layer.vectors[site]
        return total.div_(count).mul_(self.scale).float()
