"""Values of DICOM elements: typed, finite, bounded, and never quoted in an error.

Everything else that reads a header does so through these functions.
"""

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag, Tag

from polyclinic.imaging.headers import MALFORMED
from polyclinic.system.text import clean
from polyclinic_client.dicom.errors import DicomUnreadable

MOST_FRAMES = 100_000
MOST_TEXT = 200
MOST_MM = 1e6
# what damaged files raise inside pydicom and its decoders
DAMAGED: tuple[type[Exception], ...] = (
    *MALFORMED,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    AssertionError,
    InvalidDicomError,
    BytesLengthException,
)


class Malformed(ValueError):
    """A file is not as DICOM defines it; the text says so without quoting the file."""


class _Silence:
    """Silence warnings as long as anybody reads: they quote what files say.

    Python's filters are the whole process's. With `warnings.catch_warnings` in each of several
    threads, whoever leaves first would end the silence of the others, and the last would leave it
    behind for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


SILENCE = _Silence()


@contextmanager
def damage_named(path: Path, part: str) -> Iterator[None]:
    """Turn what a damaged file raises into a sentence, and silence warnings about it.

    Raises:
        DicomUnreadable: The block raised one of `DAMAGED`.
    """
    try:
        with SILENCE:
            yield
    except Malformed as error:
        raise DicomUnreadable(path, str(error)) from error
    except OSError as error:
        raise DicomUnreadable(path, (error.strerror or f"{part} cannot be read").lower()) from error
    except MemoryError as error:
        raise DicomUnreadable(path, f"{part} take more memory than there is") from error
    except DAMAGED as error:
        raise DicomUnreadable(path, f"{part} cannot be read") from error


def text(of: Dataset, keyword: str) -> str:
    """Return a text of one line and bounded length; empty where the element is missing."""
    value = _value(of, keyword)
    return "" if value is None else clean(str(value).strip())[:MOST_TEXT].strip()


def words(of: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an element of texts, in capitals."""
    value = _value(of, keyword)
    if value is None or value == "":
        return ()
    parts = [value] if isinstance(value, str) else list(value)
    return tuple(clean(str(part)).strip().upper()[:MOST_TEXT] for part in parts[:20])


def number(of: Dataset, keyword: str, default: float | None = None) -> float:
    """Return one finite number.

    Raises:
        Malformed: It is missing and has no default, or is none.
    """
    value = _value(of, keyword)
    if value is None or value == "":
        if default is None:
            raise Malformed(f"{keyword} is missing")
        return default
    return _finite(value, keyword)


def numbers(of: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return so many finite numbers; None where the element is missing.

    Raises:
        Malformed: They are more or fewer, or no numbers.
    """
    value = _value(of, keyword)
    if value is None or value in ("", []):
        return None
    if isinstance(value, str | bytes | int | float) or len(value) != count:
        raise Malformed(f"{keyword} does not hold {count} numbers")
    return tuple(_finite(each, keyword) for each in value)


def whole(of: Dataset, keyword: str, low: int, high: int, default: int | None = None) -> int:
    """Return a whole number from `low` to `high`.

    Raises:
        Malformed: It is missing and has no default, is none, or is beyond them.
    """
    found = number(of, keyword, None if default is None else float(default))
    if found != int(found) or not low <= found <= high:
        raise Malformed(f"{keyword} is not a whole number from {low} to {high}")
    return int(found)


def items(of: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; none where it is missing.

    Raises:
        Malformed: It is no sequence, or has too many items.
    """
    value = _value(of, keyword)
    if value is None:
        return []
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        raise Malformed(f"{keyword} is no sequence")
    if len(value) > MOST_FRAMES:
        raise Malformed(f"{keyword} has more than {MOST_FRAMES:,} items")
    found = list(value)
    if not all(isinstance(each, Dataset) for each in found):
        raise Malformed(f"{keyword} is no sequence")
    return found


def item(of: Dataset, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None where there is none."""
    found = items(of, keyword)
    return found[0] if found else None


@cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def _value(of: Dataset, keyword: str) -> Any:
    """Return an element's value, None where it is missing, in half of `Dataset.get`'s time."""
    tag = _tag(keyword)
    return of[tag].value if tag in of else None


def _finite(value: Any, keyword: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Malformed(f"{keyword} is no number") from error
    if not math.isfinite(found) or abs(found) > 1e15:
        raise Malformed(f"{keyword} is not finite")
    return found
