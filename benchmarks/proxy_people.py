"""Simulated people in a part of the canonical frame, for trials of deformation proxies.

Their pose is known, so that no scan has to be registered, and a box of 96 mm around the brain's
middle is a sixth of the frame: a trial then takes minutes where the whole frame takes hours. All
else is as in `polyclinic_demos.cohorts.visits`.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from polyclinic.imaging import deformation
from polyclinic_demos.cohorts.anatomy import Subject, revisit, subject
from polyclinic_demos.cohorts.anatomy import sample as read_tissues
from polyclinic_demos.cohorts.hospitals import stable_seed
from polyclinic_demos.cohorts.scanner import Grid, Scanner, acquire, label_map
from polyclinic_strategies.proxy.cases import CanonicalCase, label_shares
from polyclinic_strategies.proxy.frame.atlas import Reference, icbm152_reference
from polyclinic_strategies.proxy.frame.frames import transform
from polyclinic_strategies.proxy.frame.icbm152 import icbm152
from polyclinic_strategies.proxy.frame.intensities import air_level, match_histogram
from polyclinic_strategies.proxy.generator import shrink
from polyclinic_strategies.proxy.protection import quantize

BOX_MM = (96.0, 96.0, 96.0)


def make_people(
    group: str, count: int, visits: int, scanner: Scanner, seed: int
) -> list[CanonicalCase]:
    """Make people and scan them.

    Args:
        group: What they are for; people of two groups are different.
        count: Number of people.
        visits: Number of visits of each.
        scanner: The scanner.
        seed: Another seed gives other people.
    """
    cases = []
    for index in range(count):
        chosen = stable_seed(seed, group, index)
        person = subject(chosen, icbm152())
        for visit in range(visits):
            seen = replace(revisit(person, visit, chosen), pose=np.eye(4))
            cases.append(_scan(f"{group} {index}", seen, scanner, chosen + 1 + visit))
    return cases


def _scan(name: str, person: Subject, scanner: Scanner, seed: int) -> CanonicalCase:
    frame = icbm152_reference(1.0, BOX_MM)
    grid = _grid(frame, scanner)
    scan = acquire(person, scanner, seed, grid)
    points = transform(np.linalg.inv(grid[0]) @ frame.affine, deformation.identity(frame.shape))
    voxels = torch.from_numpy(scan.image.astype(np.float32))[None, None]
    read = deformation.sample(voxels, points)[0, 0]
    tissues = read_tissues(person, frame.affine, frame.shape)
    image = _harmonized(read, tissues.sum(0) > 0.05, frame)
    labels = torch.from_numpy(label_map(tissues))
    fine = torch.from_numpy(quantize(image))
    middle, shares = shrink(image[None, None], 2)[0].half(), label_shares(labels, 4, 4)
    return CanonicalCase(name, middle, fine, labels, shares)


def _grid(frame: Reference, scanner: Scanner) -> Grid:
    """Lay the scanner's voxels over the frame's box."""
    affine = np.diag([*scanner.voxel_mm, 1.0])
    affine[:3, 3] = frame.affine[:3, 3]
    height, width, depth = (
        int(np.ceil(size / mm)) + 1 for size, mm in zip(frame.shape, scanner.voxel_mm, strict=True)
    )
    return affine, (height, width, depth)


def _harmonized(read: Tensor, brain: Tensor, frame: Reference) -> Tensor:
    air = air_level(read[~brain], float(read[brain][::8].median()))
    seen = read[brain & (read > air)][::8]
    return match_histogram(seen, frame.image[frame.brain][::8], air)(read) * brain
