"""Input of a merging rule, one parameter at a time, and the protocol of rules."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

NORMALIZATION_STATISTICS = frozenset({"running_mean", "running_var"})


@dataclass(frozen=True)
class Layer:
    """One parameter of all sites, the sites in the order of their names.

    Args:
        name: The parameter's name in the network.
        base: The parameter in the base model, of any floating-point type.
        vectors: Task vectors, one per site, float32, of the parameter's shape. They may lie in
            mapped files: a rule must not change them.
        weights: Number of training examples of each site.
        keys: Names of the sites. Randomness is drawn from them, so that a site's mask does not
            depend on other sites.
        statistics: Statistics that the rule asked for. Those in `needs` have one row per site, and
            are absent where no site has them ("gram": (sites, in, in), "fisher": (sites, *shape)).
            Those in `global_statistics` concern all sites ("distances": (sites, sites)).
    """

    name: str
    base: Tensor
    vectors: tuple[Float[Tensor, "*shape"], ...]
    weights: tuple[int, ...]
    keys: tuple[str, ...]
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> list[Float[Tensor, " n"]]:
        """Task vectors, flattened, not copied."""
        return [vector.reshape(-1) for vector in self.vectors]

    def stacked(self) -> Float[Tensor, "sites *shape"]:
        """Copy the task vectors into one tensor, for rules that cannot go piece by piece."""
        return torch.stack(self.vectors)

    @property
    def seed(self) -> int:
        """Number that depends on the parameter's name alone."""
        return seed_of(self.name)


@runtime_checkable
class Rule(Protocol):
    """A merging rule: a frozen dataclass, called once per parameter.

    Example:
        ```python
        @dataclass(frozen=True)
        class Median:
            scale: float = 1.0
            needs: ClassVar[frozenset[str]] = frozenset()
            global_statistics: ClassVar[frozenset[str]] = frozenset()

            def __call__(self, layer):
                return self.scale * layer.stacked().median(dim=0).values
        ```

    Attributes:
        needs: Statistics of layers that every contribution must hold, of "gram" and "fisher".
        global_statistics: What a first pass over the whole vectors finds out, of "distances".

    A rule that bears sites which send anything says so: `robust: ClassVar[bool] = True`. It then
    merges running statistics of normalization layers too, at scale 1; see `streaming/merge.py`.
    """

    needs: ClassVar[frozenset[str]]
    global_statistics: ClassVar[frozenset[str]]

    @property
    def scale(self) -> float:
        """Factor of the merged task vector."""
        ...

    def __call__(self, layer: Layer) -> Tensor:
        """Return the merged task vector of this parameter, float32, in the parameter's shape."""
        ...


def is_normalization_statistic(name: str) -> bool:
    """Tell whether a tensor holds running statistics of a normalization layer.

    These are averages over images, not learned directions.
    """
    return name.rpartition(".")[2] in NORMALIZATION_STATISTICS


def seed_of(*words: str) -> int:
    """Return a 64-bit number that is the same on every machine for the same words."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big")


def require(holds: bool, sentence: str) -> None:
    """Refuse an impossible parameter.

    Raises:
        ValueError: `holds` is false.
    """
    if not holds:
        raise ValueError(sentence)


def require_scale(scale: float) -> None:
    """Refuse a scale that is not finite.

    Raises:
        ValueError: NaN or Inf.
    """
    require(math.isfinite(scale), f"scale={scale}: must be a finite number.")
