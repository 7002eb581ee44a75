"""Settings of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

from polyclinic.errors import ConfigError
from polyclinic.learning.measures.wire import MOST_COMPARED


@dataclass(frozen=True)
class Evaluating:
    """What is evaluated.

    Attributes:
        title: Name in tables.
        models: Files of the models.
        tolerance_mm: Of surface Dice; None: as each model's settings say.

    Raises:
        ConfigError: There is no model, or there are too many; or the tolerance is not positive.
    """

    title: str
    models: Sequence[str] = ()
    tolerance_mm: float | None = None

    def __post_init__(self) -> None:
        if len(self.models) > MOST_COMPARED:
            raise ConfigError(
                f"{len(self.models)} models: at most {MOST_COMPARED} are compared in one run."
            )
        if self.tolerance_mm is not None and not 0 < self.tolerance_mm <= 1000:
            raise ConfigError(
                f"strategy.tolerance_mm={self.tolerance_mm}: a length in mm above 0, at most 1000."
            )
