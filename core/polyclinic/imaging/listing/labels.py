"""What a dataset.json declares under 'labels': classes, regions, findings, or numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyclinic.config.tasks import KINDS, TaskName
from polyclinic.imaging.listing.values import MAX_NAME, shown

MAX_CLASSES = 256  # a label map is predicted in 8 bits
MAX_LABEL = 2**15  # numbers in a label map
IGNORE = "ignore"  # nnU-Net's label of voxels that do not count
LABELS = 'Write "labels": {"0": "background", "1": "name"}.'
REGIONS = 'Write "labels": {"background": 0, "name": [1, 2], "other": 2}, with numbers above 0.'


class LabelsInvalid(ValueError):
    """What is wrong with 'labels', and what to write instead."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True)
class Labels:
    """What is declared.

    Attributes:
        names: Of class 0, 1, ...; of each region, finding, or number.
        values: Number of each class in label maps; with regions all numbers that may occur.
        regions: Places in `values` that make each region; empty if there are none.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    regions: tuple[tuple[int, ...], ...] = ()


def read_labels(table: Mapping[str, Any], task: TaskName | None) -> Labels:
    """Read the table under 'labels'.

    Args:
        table: Number to name, or name to number, or name to several numbers.
        task: As the dataset.json says it; None if it does not.

    Raises:
        LabelsInvalid: It is no such table.
    """
    if IGNORE in table or IGNORE in table.values():
        raise LabelsInvalid(
            "'labels' holds the label 'ignore', which is not read",
            "Give every class a number of its own, and leave out cases in which it is drawn.",
        )
    if any(isinstance(value, list) for value in table.values()) or task == "regions":
        return _read_regions(table, task)
    return _read_classes(table, task)


def _read_classes(table: Mapping[str, Any], task: TaskName | None) -> Labels:
    """Read names and numbers, by rising number."""
    if all(isinstance(value, int) for value in table.values()):
        pairs = [(value, name) for name, value in table.items()]
    else:
        pairs = [(_number(key), name) for key, name in table.items()]
    if any(isinstance(n, bool) or not 0 <= n <= MAX_LABEL for n, _ in pairs):
        raise LabelsInvalid(f"'labels' has the keys {shown(table)}", LABELS)
    pairs.sort(key=lambda pair: pair[0])
    numbers = tuple(number for number, _ in pairs)
    names = _check_names([name for _, name in pairs], KINDS[task].least_labels if task else 2)
    if numbers[0] != 0 or len(set(numbers)) < len(numbers):
        raise LabelsInvalid(
            f"'labels' has the keys {shown(numbers)}",
            f"Number the classes from 0, each differently. {LABELS}",
        )
    return Labels(names, numbers)


def _read_regions(table: Mapping[str, Any], task: TaskName | None) -> Labels:
    """Read regions, in the order in which they are listed, without the background."""
    if task not in (None, "regions"):
        raise LabelsInvalid(f"'labels' holds regions, and 'task' is {task}", LABELS)
    named = {
        name: value if isinstance(value, list) else [value]
        for name, value in table.items()
        if isinstance(value, bool) or value != 0
    }
    numbers = [number for region in named.values() for number in region]
    sound = all(type(number) is int and 0 < number <= MAX_LABEL for number in numbers)
    if not sound or not all(len(set(region)) == len(region) > 0 for region in named.values()):
        raise LabelsInvalid(f"'labels' has regions of the numbers {shown(numbers)}", REGIONS)
    if len({frozenset(region) for region in named.values()}) < len(named):
        raise LabelsInvalid("'labels' has two regions of the same numbers", REGIONS)
    values = (0, *sorted(set(numbers)))
    if len(values) > MAX_CLASSES:
        raise LabelsInvalid(f"'labels' has {len(values)} numbers", f"At most {MAX_CLASSES}.")
    places = tuple(
        tuple(sorted(values.index(number) for number in region)) for region in named.values()
    )
    return Labels(_check_names(list(named), 1), values, places)


def _check_names(names: Sequence[object], least: int) -> tuple[str, ...]:
    """Return the names, if they can be shown, and each is a different one."""
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise LabelsInvalid(
                f"'labels' holds what is not a name of 1 to {MAX_NAME} plain characters",
                "Write a short text.",
            )
    texts = tuple(map(str, names))
    if not least <= len(texts) <= MAX_CLASSES or len(set(texts)) < len(texts):
        wanted = "two classes" if least == 2 else "one label"
        raise LabelsInvalid(
            f"'labels' are {shown(texts)}",
            f"Name at least {wanted}, each differently, at most {MAX_CLASSES}.",
        )
    return texts


def _number(key: str) -> int:
    """Return a key that is a number; -1 for every other."""
    return int(key) if key.isascii() and key.isdigit() and len(key) < 10 else -1
