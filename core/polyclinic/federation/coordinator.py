"""A method's part at the coordinator: what it must offer, and what it works with."""

from dataclasses import dataclass
from typing import Protocol

from polyclinic.config.schemas import Config
from polyclinic.federation.attendance import Attendance
from polyclinic.federation.grids.traffic import CountingGrid
from polyclinic.federation.run_folder import RunFolder


@dataclass(frozen=True)
class RunContext:
    """What a coordinator's part works with.

    Attributes:
        grid: Flower's grid to the hospitals; it counts bytes.
        attendance: Which hospitals take part.
        folder: The run's folder.
        config: The strategy's configuration.
        overrides: The settings that it was composed from.
    """

    grid: CountingGrid
    attendance: Attendance
    folder: RunFolder
    config: Config
    overrides: tuple[str, ...]


class Coordinator(Protocol):
    """A method's part at the coordinator, for one strategy of a run."""

    @property
    def title(self) -> str:
        """Name of the strategy in tables."""
        ...

    def check(self) -> None:
        """Refuse what no hospital need be asked for.

        Raises:
            ConfigError: Settings that do not fit together, or something is missing.
        """
        ...

    def run(self, context: RunContext) -> None:
        """Run the strategy to its final figures; what an earlier attempt completed is not repeated.

        Raises:
            PolyclinicError: The strategy cannot go on.
        """
        ...
