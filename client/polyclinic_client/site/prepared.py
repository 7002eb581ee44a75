"""The hospital's prepared cases: runs that want them alike share them, others have their own."""

from collections.abc import Callable
from dataclasses import asdict, replace

from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import SiteDataset
from polyclinic.learning.cases.disk_cache import DiskCache
from polyclinic.learning.preparation import PreparedSite, prepare
from polyclinic.system.text import json_digest

GIB = 2**30


class PreparedSets:
    """Prepared cases in memory, those that were wanted last; the others are prepared again.

    Args:
        dataset: The hospital's list of cases.
    """

    def __init__(self, dataset: SiteDataset) -> None:
        self._dataset = dataset
        self._sets: dict[str, PreparedSite] = {}  # in the order of use, by what was wanted

    def of(
        self,
        data: DataConfig,
        tell: Callable[[int, int], None],
        open_disk: Callable[[], DiskCache | None],
    ) -> PreparedSite:
        """Return the cases as a network wants to see them.

        Args:
            data: What the network wants, and the memory that all sets may take together.
            tell: Called with (cases done, cases).
            open_disk: Returns where cases lie that do not stay in memory, if anywhere.
        """
        key = json_digest(asdict(data))
        found = self._sets.pop(key, None)
        if found is None:
            while self._sets and self.bytes > data.cache_gb * GIB / 2:
                del self._sets[next(iter(self._sets))]
            room = max(0.0, data.cache_gb - self.bytes / GIB)
            found = prepare(self._dataset, replace(data, cache_gb=room), tell, open_disk())
        self._sets[key] = found
        return found

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return sum(each.training.bytes + each.validation.bytes for each in self._sets.values())

    def drop(self) -> None:
        """Give that memory back; the cases are prepared again when they are needed."""
        self._sets.clear()
