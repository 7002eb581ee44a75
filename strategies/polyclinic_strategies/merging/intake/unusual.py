"""Words about contributions that are unlike all others; they count all the same."""

from collections.abc import Sequence

import numpy as np

from polyclinic.federation.answers import Sketch, Teller, find_outliers, sketch_of
from polyclinic.federation.answers.outliers import WIDTH
from polyclinic.store.contribution import TensorFile
from polyclinic.store.ledger import Entry, Ledger


class Unusual:
    """What is unusual about the contributions of a ledger, told once.

    Args:
        ledger: Holds the contributions.
        names: Names of the tensors of a task vector.
    """

    def __init__(self, ledger: Ledger, names: Sequence[str]) -> None:
        self._ledger, self._names = ledger, sorted(names)
        self._sketches: dict[str, Sketch] = {}  # by digest; contributions never change
        self._teller = Teller("task vector")

    def tell(self, entries: Sequence[Entry]) -> list[str]:
        """Return a sentence for each contribution that stands out among these, unless told."""
        sketches = {entry.digest: self._sketch(entry.digest) for entry in entries}
        self._sketches = sketches
        found = find_outliers({entry.site: sketches[entry.digest] for entry in entries})
        return self._teller.tell(found, {entry.site: entry.digest for entry in entries})

    def _sketch(self, digest: str) -> Sketch:
        if digest in self._sketches:
            return self._sketches[digest]
        sums, square, start = np.zeros(WIDTH), 0.0, 0
        with TensorFile(self._ledger.contribution_path(digest)) as file:
            for name in self._names:
                part = sketch_of(file.task_vector(name).flatten().float().numpy(), start=start)
                start += -(-int(np.prod(file.shape(name))) // WIDTH) * WIDTH
                sums, square = sums + part.sums, square + part.norm**2
        return Sketch(square**0.5, sums)
