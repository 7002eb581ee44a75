"""How parts of proxy.json are read that may be missing, or hold figures that are no numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from polyclinic.federation.metrics import finite

LARGEST = 1e12  # what is larger is no measurement

Series = tuple[tuple[float, float], ...]  # steps and values


def drawable(value: object) -> float | None:
    """Return a number that a drawing can show, None for anything else."""
    found = finite(value)
    return found if found is not None and abs(found) <= LARGEST else None


def read_object(found: object) -> Mapping[str, Any]:
    """Read an object; null is an empty one."""
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ValueError(f"an object was expected, not {type(found).__name__}")
    return found


def read_items(found: object) -> Sequence[Any]:
    """Read a list; null is an empty one."""
    if found is None:
        return ()
    if not isinstance(found, list | tuple):
        raise ValueError(f"a list was expected, not {type(found).__name__}")
    return found


def read_numbers(found: object) -> dict[str, float]:
    """Keep the entries that are numbers."""
    items = read_object(found).items()
    return {name: value for name, raw in items if (value := drawable(raw)) is not None}


def read_counts(found: object) -> dict[str, int]:
    """Keep the entries that are whole numbers."""
    return {role: many for role, many in read_object(found).items() if isinstance(many, int)}


def read_sizes(found: object) -> tuple[int, ...]:
    """Keep the numbers of a list."""
    return tuple(int(size) for raw in read_items(found) if (size := drawable(raw)) is not None)


def read_attacks(found: object) -> list[dict[str, Any]]:
    """Keep the attackers with at least one AUC, and their restarts that have one."""
    attacks = []
    for name, restarts in read_object(found).items():
        objects = [read_object(each) for each in read_items(restarts)]
        attempts = [each for each in objects if drawable(each.get("auc")) is not None]
        if attempts:
            attacks.append({"name": name, "attempts": attempts})
    return attacks


def read_points(found: object) -> list[Mapping[str, Any]]:
    """Keep the points with both coordinates."""
    objects = [read_object(each) for each in read_items(found)]
    return [
        each
        for each in objects
        if drawable(each.get("round_trip")) is not None and drawable(each.get("auc")) is not None
    ]


def read_series(found: object) -> dict[str, list[tuple[float, float]]]:
    """Turn the losses of every step into the steps of every loss."""
    losses: dict[str, list[tuple[float, float]]] = {}
    for each in map(read_object, read_items(found)):
        step = drawable(each.get("step"))
        for name, raw in each.items():
            value = drawable(raw)
            if name != "step" and step is not None and value is not None:
                losses.setdefault(name, []).append((step, value))
    return {name: sorted(points) for name, points in losses.items()}
