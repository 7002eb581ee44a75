"""What a statistic must be and must return: each fault is one error that names the statistic."""

import inspect
import math
import traceback
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polyclinic.errors import PolyclinicError, StatisticFailed, StatisticInvalid
from polyclinic.system.plugins import STATISTICS, offered, provider

WANTED = (
    "a 1-D floating-point tensor of finite numbers, not empty, and of the same length for every "
    "subject"
)


def make_statistic(entry: EntryPoint) -> Any:
    """Import the class that an entry point names, and make the statistic.

    Raises:
        StatisticInvalid: It cannot be imported or made, or lacks a part.
    """
    try:
        made = entry.load()()
    except Exception as error:
        problem = f"cannot be made from {entry.value} ({type(error).__name__}: {error})"
        raise StatisticInvalid(entry.name, provider(entry), problem) from error
    lacks = [part for part in ("measure", "distance") if not callable(getattr(made, part, None))]
    if not isinstance(getattr(made, "needs_network", None), bool):
        lacks.insert(0, "needs_network = True or False")
    if lacks:
        problem = f"({entry.value}) lacks {', '.join(lacks)}"
        raise StatisticInvalid(entry.name, provider(entry), problem)
    return made


def check_vector(name: str, measure: Callable[[], Any], length: int | None) -> Float[Tensor, " n"]:
    """Measure one subject, and check what comes.

    Args:
        name: Name of the statistic.
        measure: Calls the statistic.
        length: Length of earlier subjects' vectors; None for the first one.

    Returns:
        float32, on the processor.

    Raises:
        StatisticFailed: The statistic raised an exception.
        StatisticInvalid: It returned something else than `WANTED`.
    """
    found = _call(name, "measure", measure)
    came = _find_fault(found, length)
    if not came:
        vector: Tensor = found.float().cpu()
        if bool(torch.isfinite(vector).all()):
            return vector
        came = "a tensor with NaN or Inf"
    problem = f"returned {came} from `measure`; wanted is {WANTED}"
    raise StatisticInvalid(name, _package_of(name), problem)


def check_distance(name: str, distance: Callable[[], Any]) -> float:
    """Measure a distance, and check that it is one.

    Raises:
        StatisticFailed: The statistic raised an exception.
        StatisticInvalid: It returned something else than a finite number of at least 0.
    """
    found = _call(name, "distance", distance)
    try:
        number = float(found)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        came = found if isinstance(found, int | float) else _say(found)
        problem = f"returned {came} from `distance`; wanted is a finite number, at least 0"
        raise StatisticInvalid(name, _package_of(name), problem)
    return number


def _find_fault(found: Any, length: int | None) -> str:
    """Say what came if it has another type or shape than it should; empty if it has not."""
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim != 1:
        return _say(found)
    if not found.numel():
        return "an empty tensor"
    if length is not None and len(found) != length:
        return f"{len(found)} numbers for one subject and {length} for those before it"
    return ""


def _say(found: Any) -> str:
    """Name the type of a value, and the shape of a tensor; nothing that it holds."""
    if isinstance(found, Tensor):
        kind = str(found.dtype).removeprefix("torch.")
        return f"a tensor of {kind} and of shape {tuple(found.shape)}"
    return "None" if found is None else f"a value of type {type(found).__name__}"


def _call(name: str, part: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except PolyclinicError:
        raise
    except Exception as error:
        problem = f"failed in `{part}` with {type(error).__name__}{_place(name, error)}"
        raise StatisticFailed(name, _package_of(name), problem) from error


def _place(name: str, error: Exception) -> str:
    """Find the line of the statistic's own file that failed; of whatever file if there is none."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without that of this module
    entry = offered(STATISTICS).get(name)
    own = inspect.getmodule(entry.load()) if entry else None
    inside = [frame for frame in frames if own and frame.filename == own.__file__]
    chosen = (inside or frames)[-1:]
    return "".join(f" at {Path(each.filename).name}, line {each.lineno}" for each in chosen)


def _package_of(name: str) -> str:
    entry = offered(STATISTICS).get(name)
    return provider(entry) if entry else "an unknown package"
