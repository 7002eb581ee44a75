"""Settings of planning."""

from dataclasses import dataclass

from polyclinic.errors import ConfigError

SMALLEST_GB, LARGEST_GB = 0.01, 10_000.0


@dataclass(frozen=True)
class Planning:
    """Settings of planning, as `conf/strategy/planning.yaml` describes them.

    Args:
        title: Name in tables.
        memory_gb: Memory in GiB that training may take at a hospital: of its GPU, if it has one.
        dimensions: 2 or 3; 0: as the images are.
        residual: Whether the network's encoder is residual.
    """

    title: str = "Planning"
    memory_gb: float = 8.0
    dimensions: int = 0
    residual: bool = False

    def __post_init__(self) -> None:
        if not SMALLEST_GB <= self.memory_gb <= LARGEST_GB:
            raise ConfigError(
                f"strategy.memory_gb={self.memory_gb:g}: a number of GiB, {SMALLEST_GB:g} to "
                f"{LARGEST_GB:g}."
            )
        if self.dimensions not in (0, 2, 3):
            raise ConfigError(f"strategy.dimensions={self.dimensions}: 2 or 3, or 0 for any.")
