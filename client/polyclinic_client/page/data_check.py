"""The data check and pictures of the first cases; pictures stay in this process's memory."""

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.errors import DataError
from polyclinic.imaging.datasets import Case, SiteDataset, read_dataset
from polyclinic.system.text import clean_lines

FIRST = 6  # cases that are shown
PICTURES = ("image", "truth")
FLAT = (".png", ".jpg", ".jpeg")


@dataclass
class DataCheck:
    """The check of a data folder.

    Args:
        folder: Folder with dataset.json; None where none was named.
        changed: Called when something is new.

    Attributes:
        done: Number of cases that were read, and of all.
        state: One word: idle, reading, sound or faulty.
        notes: What is unusual.
        faults: What is wrong.
    """

    folder: Path | None
    changed: Callable[[], None]
    done: tuple[int, int] = (0, 0)
    state: str = "idle"
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _pictures: dict[int, dict[str, bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def dataset(self) -> SiteDataset:
        """Read dataset.json.

        Raises:
            DataError: It cannot be read, or no folder was named.
        """
        if self.folder is None:
            raise DataError("No data folder was named: give it with --data FOLDER.")
        return read_dataset(self.folder, labelled=False)

    def start(self, deep: bool) -> None:
        """Begin to read all cases, in a thread; a check that goes on is not begun again."""
        with self._lock:
            if self.state == "reading":
                return
            dataset = self.dataset()
            self.state, self.notes, self.faults = "reading", [], []
            self.done = (0, len(dataset.cases))
            self._pictures.clear()
        threading.Thread(
            target=self._run, args=(dataset, deep), name="data-check", daemon=True
        ).start()

    def _run(self, dataset: SiteDataset, deep: bool) -> None:
        from polyclinic.imaging.dataset_checks import check_dataset

        def go_on(done: int, total: int, _name: str) -> None:
            self.done = (done, total)
            self.changed()

        def fault(_case: Case, error: DataError) -> None:
            self.faults.append(clean_lines(error))

        try:
            notes = check_dataset(dataset, deep=deep, on_progress=go_on, on_fault=fault)
            self.notes = [clean_lines(each) for each in notes]
        except DataError as error:
            self.faults.append(clean_lines(error))
        self.state = "faulty" if self.faults else "sound"
        self.changed()

    def picture(self, number: int, name: str) -> bytes | None:
        """Return a picture of one of the first cases, PNG; None if there is none.

        Raises:
            DataError: The case cannot be read.
        """
        if not 0 <= number < FIRST or name not in PICTURES:
            return None
        with self._lock:  # one case is in memory at a time
            if number not in self._pictures:
                dataset = self.dataset()
                if number >= len(dataset.cases):
                    return None
                self._pictures[number] = draw(dataset, dataset.cases[number])
            return self._pictures[number].get(name)


def draw(dataset: SiteDataset, case: Case) -> dict[str, bytes]:
    """Draw one slice of a case, alone and with its label map over it.

    Raises:
        DataError: The case cannot be read.
    """
    import numpy as np

    from polyclinic.imaging.pictures import write_slice_pictures
    from polyclinic.imaging.volumes import read_image, read_label

    dims = 2 if case.image[0].suffix.lower() in FLAT else 3
    image = read_image(case.image, len(dataset.modality), dims, nan_as_zero=True)
    affine = np.asarray(image.affine)
    voxels = image.as_tensor()
    if dims == 2:
        voxels = voxels[..., None]
    truth = None
    if isinstance(case.label, Path):
        truth = read_label(case.label, values=case.label_values).as_tensor()[0].numpy()
    with tempfile.TemporaryDirectory(prefix="polyclinic-picture-") as folder:
        files = write_slice_pictures(Path(folder), voxels, affine, truth, {})
        return {name: path.read_bytes() for name, path in files.items()}
