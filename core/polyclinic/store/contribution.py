"""A hospital's contribution: a task vector, statistics of its features, and their provenance.

A contribution is one safetensors file. Its tensors are called `task_vector/NAME` and
`statistics/NAME`. Instead of a task vector's tensor there may be its two factors of low rank,
`task_vector_up/NAME` and `task_vector_down/NAME`: see `polyclinic.learning.low_rank`. The file's
only metadata is `polyclinic`, the provenance as JSON with sorted keys, so that equal contributions
are equal bytes. The file is named by the SHA-256 of those bytes.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from polyclinic.describing.statistics import DESCRIPTION
from polyclinic.learning.low_rank import expand, factorize
from polyclinic.learning.state_dict import StateDict, save_state
from polyclinic.store.refusals import ContributionDamaged
from polyclinic.system.durable import file_digest, make_folder, put_in_place, temporary_file
from polyclinic.system.text import first_line, parse_json

__all__ = [
    "Contribution",
    "TensorFile",
    "read_contribution",
    "write_contribution",
]

OPEN: Any = safe_open  # safetensors is only partly typed
TASK_VECTOR, STATISTICS = "task_vector/", "statistics/"
UP, DOWN = "task_vector_up/", "task_vector_down/"
MAX_TEXT = 200  # characters of a name
MAX_METRICS = 1000
MAX_EXAMPLES = 2**53  # up to here a float64 holds every whole number exactly


@dataclass(frozen=True)
class Contribution:
    """Provenance of a task vector; the tensors stay in the file.

    Example:
        ```python
        about = Contribution("st-mary", "0" * 64, "brain", 12, {"loss": 0.3}, 1.7e9, "0.1.0")
        path = write_contribution(folder, about, {"conv.weight": task_vector}, statistics={})
        ```

    Attributes:
        site: Name of the hospital.
        base: `state_digest` of the model from which the hospital trained.
        task: Name of the task; the coordinator compares it literally.
        num_examples: Number of training examples, at least 1.
        metrics: The hospital's own measurements; finite.
        created: Seconds since 1970, UTC, by the hospital's clock.
        version: Version of polyclinic.
    """

    site: str
    base: str
    task: str
    num_examples: int
    metrics: Mapping[str, float]
    created: float
    version: str


class TensorFile:
    """An open contribution; each tensor is read when it is asked for.

    Raises:
        ContributionDamaged: The file is not a contribution.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = OPEN(path, framework="pt")
            keys = sorted(self._file.keys())
            self.contribution = _parse((self._file.metadata() or {}).get("polyclinic", ""))
        except (OSError, SafetensorError, ValueError) as error:
            raise ContributionDamaged(path.name, first_line(error)) from error
        whole, thin, down, self.statistics = (
            [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
            for prefix in (TASK_VECTOR, UP, DOWN, STATISTICS)
        )
        self.names, self.thin = sorted([*whole, *thin]), frozenset(thin)
        self.others = [
            key for key in keys if not key.startswith((TASK_VECTOR, UP, DOWN, STATISTICS))
        ]
        if thin != down or len(set(self.names)) < len(self.names):
            raise ContributionDamaged(path.name, "a tensor has one factor, or is there twice")
        for name in thin:
            if not self._fit(name):
                raise ContributionDamaged(path.name, f"the factors of {name} do not fit")

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file = None

    def task_vector(self, name: str) -> Tensor:
        """Read the task vector of one tensor of the model, whole."""
        if name in self.thin:
            return expand(self._file.get_tensor(UP + name), self._file.get_tensor(DOWN + name))
        tensor: Tensor = self._file.get_tensor(TASK_VECTOR + name)
        return tensor

    def statistic(self, name: str) -> Tensor:
        """Read one statistic."""
        tensor: Tensor = self._file.get_tensor(STATISTICS + name)
        return tensor

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of its statistics, as an assignment asks for them.

        `site/NAME` is of kind NAME; `KIND/PARAMETER` and `KIND.PART` are of kind KIND.
        """
        return frozenset(
            re.split(r"[/.]", name.removeprefix(DESCRIPTION), maxsplit=1)[0]
            for name in self.statistics
        )

    def statistic_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one statistic, from the header alone."""
        return self._shape(STATISTICS + name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor of the task vector, from the header alone."""
        if name in self.thin:
            return (self._shape(UP + name)[0], *self._shape(DOWN + name)[1:])
        return self._shape(TASK_VECTOR + name)

    def types(self) -> dict[str, str]:
        """Return every tensor's type as safetensors calls it, such as F32, from the header."""
        keys = [TASK_VECTOR + name for name in self.names if name not in self.thin]
        keys += [prefix + name for name in sorted(self.thin) for prefix in (UP, DOWN)]
        keys += [STATISTICS + name for name in self.statistics]
        return {key: str(self._file.get_slice(key).get_dtype()) for key in keys}

    def _fit(self, name: str) -> bool:
        """Tell whether the factors of a tensor can be multiplied."""
        up, down = self._shape(UP + name), self._shape(DOWN + name)
        return len(up) == 2 and len(down) >= 2 and up[1] == down[0] > 0

    def _shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(key).get_shape())


def write_contribution(
    folder: Path,
    contribution: Contribution,
    task_vector: StateDict,
    statistics: StateDict,
    rank: int = 0,
) -> Path:
    """Write FOLDER/DIGEST.safetensors; the file is whole and on the disk once this returns.

    Args:
        folder: Made if it is not there.
        contribution: Provenance.
        task_vector: Tensors by name.
        statistics: Tensors by name.
        rank: Of the factors that are written instead of a tensor where they are smaller; 0 for
            whole tensors.

    Raises:
        ValueError: The provenance is not as `Contribution` describes it, for example because a
            metric is not finite.
        DiskFull: No room.
    """
    text = json.dumps(
        asdict(contribution) | {"metrics": dict(contribution.metrics)},
        sort_keys=True,
        allow_nan=False,
    )
    _parse(text)
    make_folder(folder)
    tensors: StateDict = {}
    for name, tensor in task_vector.items():
        factors = factorize(tensor, rank) if rank else None
        if factors is None:
            tensors[TASK_VECTOR + name] = tensor
        else:
            tensors[UP + name], tensors[DOWN + name] = factors
    tensors |= {STATISTICS + name: tensor for name, tensor in statistics.items()}
    with temporary_file(folder, "contribution") as unfinished:
        save_state(tensors, unfinished, {"polyclinic": text})
        path = folder / f"{file_digest(unfinished)}.safetensors"
        put_in_place(unfinished, path)
    return path


def read_contribution(path: Path) -> Contribution:
    """Read the provenance, from the header alone.

    Raises:
        ContributionDamaged: The file is not a contribution.
    """
    with TensorFile(path) as file:
        return file.contribution


def _parse(text: str) -> Contribution:
    """Parse the provenance, and check the type and size of every field.

    Raises:
        ValueError: The text is not a valid provenance.
    """
    if not text:
        raise ValueError("it has no polyclinic metadata")
    found = parse_json(text)
    if not isinstance(found, dict) or set(found) != set(Contribution.__dataclass_fields__):
        raise ValueError("its metadata lacks a field or has another")
    for key in ("site", "base", "task", "version"):
        if (
            not isinstance(found[key], str)
            or not 0 < len(found[key]) <= MAX_TEXT
            or not found[key].isprintable()
        ):
            raise ValueError(f"its {key} is not a printable text of 1 to {MAX_TEXT} characters")
    if type(found["num_examples"]) is not int or not 0 < found["num_examples"] <= MAX_EXAMPLES:
        raise ValueError("its num_examples is not a positive whole number")
    metrics = found["metrics"]
    if (
        not isinstance(metrics, dict)
        or len(metrics) > MAX_METRICS
        or not all(map(_is_finite, [found["created"], *metrics.values()]))
    ):
        raise ValueError("its metrics or the time of its creation are not finite numbers")
    return Contribution(
        **{
            **found,
            "metrics": {key: float(value) for key, value in metrics.items()},
            "created": float(found["created"]),
        }
    )


def _is_finite(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )
