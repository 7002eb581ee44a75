"""What a merging rule sees, one parameter at a time."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

NORMALIZATION_STATISTICS = frozenset({"running_mean", "running_var"})


@dataclass(frozen=True)
class Layer:
    """One parameter of all sites, the sites in the order of their names.

    Args:
        name: The parameter's name in the network.
        base: The parameter in the base model, of any floating type.
        vectors: Task vectors, one per site, float32, of the parameter's shape. They may lie in mapped files: a rule does not change them.
        weights: Examples that each site trained on.
        keys: The sites' names: what randomness is drawn from, so that a site's mask depends on nobody else.
        statistics: What a rule asked for in `needs`, one row per site and absent where no site has it ("gram": (sites, in, in),
            "fisher": (sites, *shape)), or in `global_statistics` ("distances": (sites, sites)).
    """

    name: str
    base: Tensor
    vectors: tuple[Float[Tensor, "*shape"], ...]
    weights: tuple[int, ...]
    keys: tuple[str, ...]
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> list[Float[Tensor, " n"]]:
        """The task vectors flattened, not copied."""
        return [vector.reshape(-1) for vector in self.vectors]

    def stacked(self) -> Float[Tensor, "sites *shape"]:
        """The task vectors in one tensor: a copy, for rules that cannot go piece by piece."""
        return torch.stack(self.vectors)

    @property
    def seed(self) -> int:
        """A number that follows from the parameter's name alone."""
        return seed_of(self.name)


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
    """

    needs: ClassVar[frozenset[str]]
    global_statistics: ClassVar[frozenset[str]]

    @property
    def scale(self) -> float:
        """The factor before the merged task vector."""
        ...

    def __call__(self, layer: Layer) -> Tensor:
        """The merged task vector of this parameter, float32, in the parameter's shape."""
        ...


def is_normalization_statistic(name: str) -> bool:
    """Whether a tensor holds running statistics of a normalization layer: an average over images, not a direction learned."""
    return name.rpartition(".")[2] in NORMALIZATION_STATISTICS


def seed_of(*words: str) -> int:
    """A 64-bit number that is the same on every machine for the same words."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big")


def require(holds: bool, sentence: str) -> None:
    """Refuse a parameter that makes no sense.

    Raises:
        ValueError: It does not hold.
    """
    if not holds:
        raise ValueError(sentence)


def require_scale(scale: float) -> None:
    """Refuse a scale that is no number.

    Raises:
        ValueError: NaN or Inf.
    """
    require(math.isfinite(scale), f"scale={scale}: a finite number.")
