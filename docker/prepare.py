"""Write the simulated patients of one scanner: `python prepare.py SCANNER FOLDER SUBJECTS [MM]`.

They go to FOLDER/SCANNER: SUBJECTS for training, one for validation and one for the test. No voxel
is smaller than MM millimetres: larger voxels make smaller images. A complete image is kept.
"""

import sys
from dataclasses import replace
from pathlib import Path

from polyclinic_demos.cohorts.hospitals import HOSPITALS, NEWCOMERS, write_cohort


def main(name: str, folder: Path, subjects: int, voxel_mm: float | None) -> None:
    """Write one hospital's data set."""
    known = {scanner.name: scanner for scanner in (*HOSPITALS, *NEWCOMERS)}
    scanner = known.get(name)
    if scanner is None:
        names = ", ".join(known)
        sys.exit(f"There is no scanner {name}: choose one of {names}.")
    if voxel_mm is not None:
        x, y, z = (max(mm, voxel_mm) for mm in scanner.voxel_mm)
        scanner = replace(scanner, voxel_mm=(x, y, z))
    (path,) = write_cohort(folder, sites=1, subjects=(subjects, 1, 1), scanners=[scanner])
    sys.stdout.write(f"{path}: {len(list(path.rglob('*.nii.gz')))} NIfTI files\n")


if __name__ == "__main__":
    voxel_mm = float(sys.argv[4]) if len(sys.argv) > 4 else None
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), voxel_mm)
