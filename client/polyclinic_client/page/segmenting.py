"""Segmenting a scan from the page: the work that goes on, and its results with their pictures."""

import hashlib
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.errors import ConfigError
from polyclinic.system.machine import thread_settings
from polyclinic.system.processes import Child, how_it_ended, python_module
from polyclinic.system.text import clean, clean_lines
from polyclinic_client.page.scan_task import DONE, FAILED, LOG, SAYS, ScanTask, SegmentService
from polyclinic_client.page.scans import ENDINGS, Scan, find_scans
from polyclinic_client.site.status import Status, StatusFile

RESULTS = "segmented"  # in the state folder
MOST_RESULTS = 20
MOST_LABELS = 256
SERVICE = "service"  # what is posted in a model's place
MODULE = "polyclinic_client.page.segment_scan"
PICTURES = ("image", "result")
STOP_S = 3.0


@dataclass(frozen=True)
class Segmented:
    """A scan that was segmented.

    Attributes:
        number: Of the result, from 1.
        scan: The scan.
        model: Name of the model.
        target: File of the label map.
        labels: Name of label 0, 1, ...; empty where a number stands for none.
        seconds: How long it took.
    """

    number: int
    scan: Scan
    model: str
    target: Path
    labels: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Work:
    """Work that goes on, or that ended last; `began` is in seconds since 1970."""

    child: Child
    scan: Scan
    model: str
    target: Path
    began: float


@dataclass
class Segmenting:
    """Segments one scan at a time, by a process beside the page.

    Args:
        state: The hospital's state folder.
        data: Folder with dataset.json, whose cases can be chosen; None without one.
        folders: Folders of other scans.
        service: A segmentation service that can be asked; None without one.
        changed: Called when something is new.

    Attributes:
        busy: Whether a scan is being segmented.
        work: What goes on, or ended last.
        problem: Why the last work failed.
        results: What was segmented since the page began, the newest first.
    """

    state: Path
    data: Path | None
    folders: Sequence[Path]
    service: SegmentService | None
    changed: Callable[[], None]
    busy: bool = False
    work: Work | None = None
    problem: str = ""
    results: list[Segmented] = field(default_factory=list)
    _count: int = 0
    _stopped: bool = False
    _pictures: dict[int, Mapping[str, bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def scans(self) -> dict[str, Scan]:
        """Return the scans that can be chosen."""
        return find_scans(self.data, self.folders)

    def says(self) -> Status:
        """Return what the process says of itself."""
        return StatusFile(self.state / SAYS).read()

    def start(self, path: str, model: str, models: Sequence[str]) -> None:
        """Begin to segment a scan.

        Args:
            path: Of one of the scans that can be chosen.
            model: One of the models that lie in the state folder, or `SERVICE`.
            models: Those models.

        Raises:
            ConfigError: Another scan is being segmented, or it cannot be chosen.
        """
        scan = self.scans().get(path)
        if scan is None:
            raise ConfigError("There is no such scan in the folders that this page was given.")
        service = self.service if model == SERVICE else None
        if service is None and model not in models:
            raise ConfigError("There is no such model here.")
        with self._lock:
            if self.busy:
                raise ConfigError("A scan is being segmented: wait for it, or stop it.")
            target = self.state / RESULTS / name_result(scan, model)
            chosen = None if service else self.state / model
            ScanTask(scan=scan.path, target=target, model=chosen, service=service).write(self.state)
            (self.state / SAYS).unlink(missing_ok=True)
            (self.state / LOG).unlink(missing_ok=True)
            command = python_module(MODULE, str(self.state))
            child = Child("segmenting", command, self.state / LOG, thread_settings())
            child.start()
            work = self.work = Work(child, scan, model, target, time.time())
            self.problem, self.busy, self._stopped = "", True, False
        threading.Thread(target=self._attend, args=(work,), name="segmenting", daemon=True).start()

    def stop(self) -> None:
        """Stop what goes on; nothing happens where nothing does."""
        if self.work is not None and self.busy:
            self._stopped = True
            self.work.child.stop(STOP_S)

    def _attend(self, work: Work) -> None:
        """Wait for the end of the work, and keep what it made."""
        status, said = work.child.wait() or 0, self.says()
        if self._stopped:
            self.problem = "It was stopped."
        elif status == 0 and said.doing == DONE:
            self._keep(work, said)
        elif said.doing == FAILED:
            self.problem = clean_lines(said.reason)
        else:
            ended = how_it_ended(status, "The process that segments ended")
            self.problem = f"{ended} (see {work.child.log})."
        self.busy = False
        self.changed()

    def _keep(self, work: Work, said: Status) -> None:
        told = said.details.get("labels")
        labels = [clean(str(each)) for each in told[:MOST_LABELS]] if isinstance(told, list) else []
        self._count += 1
        seconds = time.time() - work.began
        made = Segmented(self._count, work.scan, work.model, work.target, tuple(labels), seconds)
        others = [each for each in self.results if each.target != made.target]
        self.results = [made, *others][:MOST_RESULTS]

    def picture(self, number: int, name: str) -> bytes | None:
        """Return a picture of a result, PNG; None if there is none.

        Raises:
            DataError: A file cannot be read any more.
        """
        found = next((each for each in self.results if each.number == number), None)
        if found is None or name not in PICTURES:
            return None
        with self._lock:  # one scan is in memory at a time
            kept = {each.number for each in self.results}
            self._pictures = {n: drawn for n, drawn in self._pictures.items() if n in kept}
            if number not in self._pictures:
                self._pictures[number] = draw_result(found.scan.path, found.target)
            return self._pictures[number].get(name)


def draw_result(scan: Path, target: Path) -> dict[str, bytes]:
    """Draw one slice of a scan, alone and with a label map over it.

    Raises:
        DataError: One of them cannot be read.
    """
    import numpy as np

    from polyclinic.imaging.image_files import check_header
    from polyclinic.imaging.pictures import write_slice_pictures
    from polyclinic.imaging.volumes import read_image, read_label

    image = read_image(scan, check_header(scan).channels, 2, nan_as_zero=True)
    voxels, affine = image.as_tensor(), np.asarray(image.affine)
    labels = read_label(target).as_tensor()[0].numpy()
    with tempfile.TemporaryDirectory(prefix="polyclinic-picture-") as folder:
        files = write_slice_pictures(Path(folder), voxels, affine, None, {"result": labels})
        return {name: path.read_bytes() for name, path in files.items()}


def name_result(scan: Scan, model: str) -> str:
    """Name the file of a label map: no other scan, and no other model, has the same."""
    name = scan.path.name
    stem = next((name[: -len(end)] for end in ENDINGS if name.lower().endswith(end)), name)
    digest = hashlib.sha256(f"{scan.path}\n{model}".encode("utf-8", "surrogateescape")).hexdigest()
    return f"{stem[:100]}.{digest[:12]}.nii.gz"
