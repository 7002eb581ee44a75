"""DICOM: 1,000 slices to NIfTI, a study from a PACS beside dicomweb-client's plain download.

    python benchmarks/dicom.py

The slices are simulated CT, 512 x 512 in 16 bits with noise as a scanner has it, read once before
so that they lie in the system's cache. The PACS is Orthanc with its DICOMweb plug-in, started here
on a free port; without it that part is left out. Times are of several turns, in alternation.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from polyclinic.system.machine import given_cores
from polyclinic_client.dicom.pacs import CHUNK_BYTES, Pacs, RemoteSeries
from polyclinic_client.dicom.reading.finding import find_series
from polyclinic_client.dicom.reading.volumes import read_volume, write_volume

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.client.dicom.orthanc import MISSING, REASON, fill, pacs  # noqa: E402
from tests.client.dicom.simulated import Phantom, make_slices, write  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "dicom.json"
SIDE = 512
AS_STORED = (("application/dicom", "*"),)
NOISE = 12.0  # Hounsfield units


def make_series(folder: Path, slices: int) -> None:
    """Write a CT series whose pixels compress as those of a scanner do: smooth, with noise."""
    random = np.random.default_rng(0)
    phantom = Phantom(shape=(SIDE, SIDE, slices), spacing=(0.8, 0.8, 0.6))
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    body = np.where(x**2 + (1.4 * y) ** 2 < 0.8, 40 + 60 * np.sin(6 * x) * np.cos(5 * y), -1000)

    def drawn(one: Dataset, plane: int) -> None:
        values = body + random.normal(0, NOISE, body.shape) + 30 * np.sin(plane / 50) + 24
        one.PixelData = values.astype(np.int16).tobytes()

    small = Phantom(shape=(2, 2, slices), spacing=phantom.spacing)
    images = make_slices(small, change=drawn)
    for one in images:
        one.Rows = one.Columns = SIDE
    write(folder, images)


def time_import(folder: Path, target: Path) -> dict[str, float]:
    """Return the seconds of each part of a series' way to a NIfTI file."""
    start, computing = time.perf_counter(), time.process_time()
    (series,) = find_series(folder).series
    found = time.perf_counter()
    volume = read_volume(series, "series")
    read = time.perf_counter()
    write_volume(target, volume)
    end = time.perf_counter()
    return {
        "headers_s": found - start,
        "pixels_s": read - found,
        "write_s": end - read,
        "total_s": end - start,
        "cpu_s": time.process_time() - computing,  # of all threads
        "load": os.getloadavg()[0],
        "slices": float(volume.grid.shape[2]),
    }


def time_pacs(folder: Path, slices: int, turns: int) -> dict[str, Any]:
    """Return the seconds of fetching a study: ours, which writes files, and the plain download."""
    (series,) = find_series(folder).series
    one = RemoteSeries(series.first.study, series.first.series)
    ours: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as name, pacs(Path(name) / "orthanc") as url:
        fill(url, folder)
        for turn in range(turns + 1):  # the first warms the archive's cache
            target = Path(name) / "ours"
            shutil.rmtree(target, ignore_errors=True)
            start = time.perf_counter()
            assert Pacs(url).fetch(one, target) == slices
            middle = time.perf_counter()
            with requests.Session() as session:
                session.trust_env = False
                client = DICOMwebClient(url, session=session, chunk_size=CHUNK_BYTES)
                got = client.retrieve_series(
                    one.study, one.series, media_types=(("application/dicom", "*"),)
                )
            assert len(got) == slices
            del got
            if turn:
                ours.append(middle - start)
                plain.append(time.perf_counter() - middle)
    return {
        "slices": slices,
        "ours_s": ours,
        "plain_s": plain,
        "speed_of_plain": median(plain) / median(ours),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--pacs-slices", type=int, default=200)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_series(folder / "large", asked.slices)
        turns = [
            time_import(folder / "large", folder / "volume.nii.gz") for _ in range(asked.turns)
        ]
        best = sorted(turns, key=lambda each: each["total_s"])
        print(f"{asked.slices} slices on {given_cores()} cores: {best[len(best) // 2]}")
        found: dict[str, Any] = {"cores": given_cores(), "series": turns}
        shutil.rmtree(folder / "large")
        if MISSING:
            print(f"no PACS: {REASON}")
        else:
            make_series(folder / "study", asked.pacs_slices)
            found["pacs"] = time_pacs(folder / "study", asked.pacs_slices, asked.turns)
            print(f"from a PACS: {found['pacs']}")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
