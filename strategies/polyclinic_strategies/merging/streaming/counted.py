"""A contribution as it counts: from the current base, however it was made.

A hospital hands in what it learned from the model that it started from. That may be an older base,
or a model that was published since. From such a model S, made on the base B, its task vector is
(tuned - S) + (S - B).
"""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from torch import Tensor

from polyclinic.store.contribution import TensorFile
from polyclinic_strategies.merging.streaming.streams import StoredState


class Discounted(TensorFile):
    """A contribution made on an older base; its task vector counts less.

    Args:
        path: The contribution.
        factor: Factor of the task vector, 0 .. 1.
    """

    def __init__(self, path: Path, factor: float) -> None:
        super().__init__(path)
        self._factor = factor

    def task_vector(self, name: str) -> Tensor:
        """Return the task vector of one tensor, discounted."""
        return super().task_vector(name) * self._factor


class Moved(TensorFile):
    """A contribution that started from a published model; its task vector is from the base.

    Args:
        path: The contribution.
        start: File of the model that it started from.
        base: File of the base on which that model was published.
        factor: Factor of the task vector, 0 .. 1.

    Raises:
        ContributionDamaged: The file is not a contribution.
        ModelInvalid: The start or the base is missing or damaged.
    """

    def __init__(self, path: Path, start: Path, base: Path, factor: float) -> None:
        super().__init__(path)
        self._factor = factor
        with ExitStack() as stack:
            self._start = stack.enter_context(StoredState(start))
            self._base = stack.enter_context(StoredState(base))
            self._models = stack.pop_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._models.close()
        super().__exit__(kind, error, trace)

    def task_vector(self, name: str) -> Tensor:
        """Return the task vector of one tensor from the base, discounted."""
        moved = super().task_vector(name) + (self._start[name] - self._base[name])
        return moved * self._factor
