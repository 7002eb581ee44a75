"""The coordinate-wise median as a merging rule."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer


@dataclass(frozen=True)
class Median:
    """Per entry, the lower median over sites, times a scale."""

    scale: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, layer: Layer) -> Tensor:
        """(sites, *shape) -> (*shape)."""
        return layer.stacked().median(dim=0).values * self.scale
