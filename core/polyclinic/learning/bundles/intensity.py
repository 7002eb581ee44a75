"""The intensity steps of a bundle: MONAI's transforms, made of plain values that travelled."""

from collections.abc import Mapping, Sequence
from typing import Any

from monai import transforms
from monai.transforms import Compose

from polyclinic.config.bundles.flat import unflatten
from polyclinic.config.bundles.transforms import INTENSITY
from polyclinic.errors import ConfigError
from polyclinic.system.text import clean, first_line

NAME = "transform"
FAULTS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError)


class IntensitySteps(Compose):  # type: ignore[misc]
    """Steps that change an image's intensities, one after another."""

    def __init__(self, steps: Sequence[str]) -> None:
        """Make the steps.

        Args:
            steps: As `polyclinic.config.bundles.flat` writes them: a table each, with MONAI's name
                as `transform`, and its arguments.

        Raises:
            ConfigError: A step that is not of `polyclinic.config.bundles.transforms.INTENSITY`, or
                an argument that it does not take.
        """
        super().__init__([_make(step) for step in read_steps(steps)])


def read_steps(steps: Sequence[str]) -> list[Mapping[str, Any]]:
    """Read steps that travelled.

    Raises:
        ConfigError: They are no tables of known steps.
    """
    found = unflatten(steps) or []
    if not isinstance(found, list):
        raise ConfigError("data.intensity_steps: they are no list of steps.")
    for step in found:
        name = step.get(NAME) if isinstance(step, Mapping) else None
        if not isinstance(name, str) or name not in INTENSITY:
            raise ConfigError(
                f"data.intensity_steps: '{clean(name)[:60]}' is none of {', '.join(INTENSITY)}."
            )
        if unknown := sorted(set(step) - {NAME, *INTENSITY[name]}):
            raise ConfigError(f"data.intensity_steps: {name} has no argument '{unknown[0]}'.")
    return found


def _make(step: Mapping[str, Any]) -> Any:
    arguments = {key: value for key, value in step.items() if key != NAME}
    try:
        return getattr(transforms, f"{step[NAME]}d")(keys="image", **arguments)
    except FAULTS as error:
        raise ConfigError(
            f"data.intensity_steps: {step[NAME]} cannot be made: {first_line(error)}"
        ) from error
