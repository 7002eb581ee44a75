"""Simulated people in a part of the canonical frame, for trials of deformation proxies.

Their pose is known, so that no scan has to be registered, and a box of 96 mm around the brain's
middle is a sixth of the frame: a trial then takes minutes where the whole frame takes hours. All
else is as in `polyclinic_demos.cohorts.visits`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyclinic.imaging import deformation
from polyclinic_demos.cohorts.anatomy import Subject, real_person, revisit, subject, with_lesions
from polyclinic_demos.cohorts.anatomy import sample as read_tissues
from polyclinic_demos.cohorts.hospitals import stable_seed
from polyclinic_demos.cohorts.scanner import Grid, Scanner, acquire, label_map
from polyclinic_strategies.proxy.cases import CanonicalCase, label_shares
from polyclinic_strategies.proxy.frame.atlas import CONTRAST, Reference, icbm152_reference
from polyclinic_strategies.proxy.frame.frames import transform
from polyclinic_strategies.proxy.frame.icbm152 import TissueMaps, icbm152
from polyclinic_strategies.proxy.frame.intensities import air_level, match_histogram
from polyclinic_strategies.proxy.frame.registration import register
from polyclinic_strategies.proxy.generator import shrink
from polyclinic_strategies.proxy.protection import quantize

BOX_MM = (96.0, 96.0, 96.0)
LESIONS = 3


def make_people(
    group: str, count: int, visits: int, scanner: Scanner, seed: int, *, lesions: bool = False
) -> list[CanonicalCase]:
    """Make people and scan them.

    Args:
        group: What they are for; people of two groups are different.
        count: Number of people.
        visits: Number of visits of each.
        scanner: The scanner.
        seed: Another seed gives other people.
        lesions: Whether everybody has lesions at places of their own.
    """
    cases = []
    for index in range(count):
        chosen = stable_seed(seed, group, index)
        maps = with_lesions(icbm152(), chosen, LESIONS) if lesions else icbm152()
        cases += _visits(f"{group} {index}", subject(chosen, maps), chosen, visits, scanner)
    return cases


def real_people(files: list[Path], visits: int, scanner: Scanner, seed: int) -> list[CanonicalCase]:
    """Scan real anatomies; each is registered to the reference once."""
    cases = []
    for path in files:
        maps = real_person(path)
        chosen = stable_seed(seed, path.name)
        person = replace(subject(chosen, maps), pose=_registered(maps))
        person = replace(person, displacement_mm=torch.zeros_like(person.displacement_mm))
        cases += _visits(path.name, person, chosen, visits, scanner)
    return cases


def _visits(
    name: str, person: Subject, seed: int, visits: int, scanner: Scanner
) -> list[CanonicalCase]:
    pose = np.eye(4) if person.displacement_mm.any() else person.pose
    found = []
    for visit in range(visits):
        seen = replace(revisit(person, visit, seed), pose=pose)
        found.append(_scan(name, seen, scanner, seed + 1 + visit))
    return found


def _registered(maps: TissueMaps) -> NDArray[np.float64]:
    """Return the way from the frame's world to that of a real brain."""
    whole = icbm152_reference(2.0)
    brain = torch.einsum("c,chwd->hwd", torch.tensor(CONTRAST), maps.probabilities).contiguous()
    return register(whole.image, whole.affine, brain, maps.affine).matrix


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
