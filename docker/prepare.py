"""Write the simulated patients of one scanner: `python prepare.py SCANNER FOLDER SUBJECTS [MM]`.

They go to FOLDER/SCANNER: SUBJECTS for training, one for validation and one for the test. MM is
the size of a voxel in millimetres: larger voxels make smaller images. A complete image is kept.
"""

import sys
from dataclasses import replace
from pathlib import Path

from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort


def main(name: str, folder: Path, subjects: int, voxel_mm: float | None) -> None:
    """Write one hospital's data set."""
    scanner = next((scanner for scanner in HOSPITALS if scanner.name == name), None)
    if scanner is None:
        names = ", ".join(scanner.name for scanner in HOSPITALS)
        sys.exit(f"There is no scanner {name}: choose one of {names}.")
    if voxel_mm is not None:
        scanner = replace(scanner, voxel_mm=(voxel_mm, voxel_mm, voxel_mm))
    (path,) = write_cohort(folder, sites=1, subjects=(subjects, 1, 1), scanners=[scanner])
    sys.stdout.write(f"{path}: {len(list(path.rglob('*.nii.gz')))} NIfTI files\n")


if __name__ == "__main__":
    voxel_mm = float(sys.argv[4]) if len(sys.argv) > 4 else None
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), voxel_mm)
