"""Labels of cases that are findings or numbers: what a dataset.json may say of one case.

A finding is 1 or 0, a number any real one; NaN stands for what nobody looked for or measured.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

Values = tuple[float, ...]
LARGEST = 1e9
MAX_NAME = 200  # characters of a class, a channel, a patient


def read_values(label: object, names: Sequence[str], task: str | None) -> Values | str:
    """Read a case's findings or numbers.

    Args:
        label: A list of the findings that there are; a table from name to 1, 0 or null (a number
            in a regression); or the number of a regression with one.
        names: Of all findings or numbers.
        task: As the dataset.json says it.

    Returns:
        One value for each name; or, as a text, what is wrong.
    """
    if task not in (None, "multilabel", "regression"):
        return f"has a list or a table as label, and 'task' is {task}"
    if isinstance(label, list):
        if task == "regression":
            return "has a list as label, and 'task' is regression"
        return _read_names(label, names)
    if isinstance(label, Mapping):
        return _read_table(label, names, whole=task != "regression")
    if len(names) != 1 or (value := _number(label)) is None:
        return f"has the label {repr(label)[:MAX_NAME]}, no number for {shown(names)}"
    return (value,)


def _read_names(label: Sequence[object], names: Sequence[str]) -> Values | str:
    found = {name for name in label if isinstance(name, str)}
    if len(found) < len(label) or not found <= set(names):
        return f"has the findings {shown(label)}; 'labels' declares {shown(names)}"
    return tuple(float(name in found) for name in names)


def _read_table(label: Mapping[str, object], names: Sequence[str], *, whole: bool) -> Values | str:
    unknown = set(label) - set(names)
    if unknown:
        return f"has values of {shown(unknown)}; 'labels' declares {shown(names)}"
    values = []
    for name in names:
        value = math.nan if label.get(name) is None else _number(label[name])
        if value is None or (whole and value not in (0.0, 1.0) and not math.isnan(value)):
            kind = "neither 1, 0 nor null" if whole else "no number"
            return f"has {shown([name])}: {repr(label[name])[:MAX_NAME]}, {kind}"
        values.append(value)
    return tuple(values)


def _number(value: object) -> float | None:
    """Return a finite number of ordinary size; None for anything else."""
    if not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
        return None
    return float(value)


def shown(names: Iterable[object]) -> str:
    """Return the first names in one line."""
    given = list(names)
    first = [str(name)[:MAX_NAME] for name in given[:20]]
    return ", ".join(first) + (", ..." if len(given) > len(first) else "")
