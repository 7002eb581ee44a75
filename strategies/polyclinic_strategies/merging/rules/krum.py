"""Krum: Blanchard et al. 2017, https://arxiv.org/abs/1703.02757."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor

from polyclinic.errors import ConfigError
from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale


@dataclass(frozen=True)
class Krum:
    """Take the task vector of one site, the one with the nearest neighbours.

    Δ = λ τ_k, k = argmin_i Σ_{j near i} ‖τ_i - τ_j‖²

    The sum runs over the N - f - 2 other sites nearest to i, by distances between whole task
    vectors without running statistics. Of equal scores, the first name wins.

    Args:
        byzantine: f, the number of sites that may send anything; needs N >= 2 f + 3 sites.
        scale: λ.

    Raises:
        ValueError: A parameter is out of range.
        ConfigError: There are fewer sites. A smaller f is not chosen silently, because the
            guarantee would no longer hold.
    """

    byzantine: int = 1
    scale: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset({"distances"})
    robust: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.byzantine >= 0, f"byzantine={self.byzantine}: 0 or more.")
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        chosen = int(krum_scores(layer.statistics["distances"], self.byzantine).argmin())
        return layer.vectors[chosen] * self.scale


def krum_scores(
    distances: Float64[Tensor, "sites sites"], byzantine: int
) -> Float64[Tensor, " sites"]:
    """Return Σ of squared distances from each site to its N - f - 2 nearest others.

    Raises:
        ConfigError: Fewer than 2 f + 3 sites.
    """
    sites = len(distances)
    if sites < 2 * byzantine + 3:
        raise ConfigError(
            f"Krum with byzantine={byzantine} needs {2 * byzantine + 3} hospitals' contributions, "
            f"there are {sites}. Wait for more of them, or lower strategy.rule.byzantine."
        )
    ordered = distances.sort(dim=1).values  # the first is the site itself
    return ordered[:, 1 : sites - byzantine - 1].sum(1)
