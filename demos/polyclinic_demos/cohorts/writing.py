"""Writing of scans, each whole or not at all, by two processes where there are two cores.

No process outlives its parent.
"""

import gzip
import json
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from polyclinic.errors import RunError
from polyclinic.system.durable import write_atomically
from polyclinic_demos.cohorts.anatomy import real_person, revisit, subject, with_lesions
from polyclinic_demos.cohorts.scanner import Scanner, acquire
from polyclinic_strategies.proxy.frame.icbm152 import icbm152

_WORKERS = 2
# up to this many scans are written faster in this process than by new ones
_WORTH_A_PROCESS = 3


@dataclass(frozen=True)
class ScanOrder:
    """One scan to be made.

    Attributes:
        site: The hospital's folder.
        stem: Name of the files without ".nii.gz".
        split: "training", "validation" or "test".
        scanner: The scanner.
        seed: Determines the person's shape and the scan's noise.
        person: A label map to start from; None for ICBM152.
        visit: Number of the person's visit; 0 is the first.
        lesions: Number of the person's lesions.
    """

    site: Path
    stem: str
    split: str
    scanner: Scanner
    seed: int
    person: Path | None
    visit: int = 0
    lesions: int = 0

    @property
    def files(self) -> dict[str, Path]:
        """Paths of "image" and "label"."""
        part = "Ts" if self.split == "test" else "Tr"
        return {
            kind: self.site / f"{kind}s{part}" / f"{self.stem}.nii.gz"
            for kind in ("image", "label")
        }


def write_scans(orders: Sequence[ScanOrder], processes: int = _WORKERS) -> Iterator[ScanOrder]:
    """Write every scan and yield each order once its files are there, in the order of completion.

    Args:
        orders: The scans.
        processes: At most so many write; 1 writes in this process.

    Raises:
        DiskFull: There is no room left.
        RunError: A worker process died.
    """
    workers = min(processes, os.cpu_count() or 1)
    if workers == 1 or len(orders) <= _WORTH_A_PROCESS:
        for order in orders:
            yield write_scan(order)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        for future in as_completed([pool.submit(write_scan, order) for order in orders]):
            yield future.result()
    except BrokenProcessPool as error:
        raise RunError(
            "A process that writes the demo cohort died: memory ran out, or a script calls "
            'write_cohort outside of if __name__ == "__main__".'
        ) from error
    finally:
        # after Ctrl-C, the present scans are finished, and no further one starts
        pool.shutdown(wait=True, cancel_futures=True)


def write_scan(order: ScanOrder) -> ScanOrder:
    """Make one scan, and write its image and its label map.

    Raises:
        DiskFull: There is no room left.
    """
    maps = real_person(order.person) if order.person else icbm152()
    if order.lesions:
        maps = with_lesions(maps, order.seed, order.lesions)
    person = revisit(subject(order.seed, maps), order.visit, order.seed)
    scan = acquire(person, order.scanner, order.seed + 1 + order.visit)
    for kind, voxels in (("image", scan.image), ("label", scan.label_map)):
        write_atomically(order.files[kind], _nifti(voxels, scan.affine))
    return order


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        DiskFull: There is no room left.
    """
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def _nifti(voxels: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _start_worker() -> None:
    """Make a worker ignore Ctrl-C, which its parent handles, and end when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
