"""Affine registration of a reference brain to a scan, on a pyramid of 8 mm and 4 mm.

Twelve affine parameters are fitted by least squares, over places x of the reference r (mm about its
centre) and a scan f:

    minimize over M, a:   sum_x w(x) (r(x) - a_0 - a_1 f(Mx) - a_2 f(Mx)^2 - a_3 f(Mx)^3)^2

With a straight line in place of the cubic this is the largest normalized cross-correlation. The
cubic also allows for other contrasts: in a T2 scan, fluid is bright. w is 0 where Mx lies beyond
the scan's field of view. The method is Gauss-Newton with Levenberg's damping on M and a together.
It starts from centres of mass and sizes, and from a few tilts of the head.

Registration with adaptive intensities: Guimond et al. 2001, https://doi.org/10.1109/42.906425.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from polyclinic.imaging.deformation import identity, sample
from polyclinic.imaging.foreground import foreground
from polyclinic.imaging.headers import spacing_of
from polyclinic_strategies.proxy.frame.frames import dilate, transform, within

LEVELS_MM = (8.0, 4.0)
# axis, degrees
TILTS = ((0, 0.0), *((axis, degrees) for axis in range(3) for degrees in (-20.0, 20.0)))
TURNS = tuple((axis, 180.0) for axis in range(3))
REACH_MM = 12.0  # places up to this far outside the reference's brain count, for its outline
RADIUS_MM = 70.0  # radius of a brain; scales the matrix so that all entries move the edge equally
_STEPS = 25
_STILL_MM = 0.01
_POWERS = 3
_SIZES = (0.8, 1.25)  # a start outside this range comes from a cut field of view
_LIGHTEST = 1e-3  # smallest damping
_HEAVIEST = 1e4  # largest damping


@dataclass(frozen=True, eq=False)
class Fit:
    """Result of the registration.

    Attributes:
        matrix: (4, 4), the reference's world to the scan's world, mm.
        correlation: Correlation of the reference and the scan's cubic, over the places seen, in [0,
            1].
        detail: Correlation of the reference and the scan itself, over the brain without its
            outermost layer, in [-1, 1]: 0 for a filled outline, below 0 where fluid is bright.
        seen: Share of the reference's brain that lies within the scan's field of view.
        turned: Whether the reference fits better with back and front, or top and bottom, exchanged;
            the scan's affine is then wrong.
    """

    matrix: NDArray[np.float64]
    correlation: float
    detail: float
    seen: float
    turned: bool


@dataclass(frozen=True, eq=False)
class _Fixed:
    """The reference at one level.

    Attributes:
        places: (N, 3), in mm about `centre`.
        values: (N,), intensities.
        brain: (N,), 1 in the brain.
        core: (N,), 1 in the brain without its outermost layer.
    """

    places: Tensor
    values: Tensor
    brain: Tensor
    core: Tensor
    centre: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Moving:
    """A scan at one level.

    Attributes:
        volume: (1, 4, X, Y, Z), the value and its slope along each axis.
        to_voxel: (4, 4), mm to voxels.
    """

    volume: Tensor
    to_voxel: NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class _State:
    """State of the search.

    Attributes:
        motion: M, (3, 4), acting on (x / RADIUS_MM, 1).
        cubic: a, (4,).
        loss: Unexplained share of the reference's variance.
        seen: Share of the reference's brain in the field of view.
    """

    motion: Tensor
    cubic: Tensor
    loss: float
    seen: float


def register(
    reference: Tensor,
    reference_affine: NDArray[np.float64],
    scan: Tensor,
    scan_affine: NDArray[np.float64],
) -> Fit:
    """Find the affine map that lays a reference brain over a scan.

    Args:
        reference: (H, W, D), above 0 only in the brain.
        reference_affine: (4, 4), voxel index to mm.
        scan: (X, Y, Z), any units; the air around the brain may be noisy.
        scan_affine: (4, 4), voxel index to mm.

    Returns:
        The best fit, which may be a bad one: check its correlation.
    """
    best, turned = None, False
    for level_mm in LEVELS_MM:
        fixed = _fixed_level(reference, reference_affine, level_mm)
        volume, affine = shrink(scan.float(), scan_affine, level_mm)
        moving = _moving_level(volume, affine)
        if best is None:
            best = _search(fixed, moving, _starts(fixed, volume, affine, TILTS))
            turned = _search(fixed, moving, _starts(fixed, volume, affine, TURNS)).loss < best.loss
        else:
            best = _descend(fixed, moving, best.motion)
    assert best is not None
    linear = (best.motion[:, :3] / RADIUS_MM).numpy()
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = best.motion[:, 3].numpy() - linear @ fixed.centre
    correlation = float(np.sqrt(max(0.0, 1 - best.loss)))
    return Fit(matrix, correlation, _detail(fixed, moving, best), best.seen, turned)


def shrink(
    volume: Tensor, affine: NDArray[np.float64], wanted_mm: float
) -> tuple[Tensor, NDArray[np.float64]]:
    """Average blocks of voxels, so that voxels are about `wanted_mm` wide.

    Args:
        volume: (X, Y, Z), float32.
        affine: (4, 4), voxel index to mm.
        wanted_mm: Wanted width; wider voxels stay as they are.

    Returns:
        The volume and its affine.
    """
    factors = [
        max(1, min(size, round(wanted_mm / mm)))
        for size, mm in zip(volume.shape, spacing_of(affine), strict=True)
    ]
    small = functional.avg_pool3d(volume[None, None], factors, ceil_mode=True)[0, 0]
    step = np.diag([*factors, 1.0])
    step[:3, 3] = (np.array(factors) - 1) / 2
    return small, affine @ step


def _fixed_level(image: Tensor, affine: NDArray[np.float64], level_mm: float) -> _Fixed:
    small, affine = shrink(image, affine, level_mm)
    brain = small > 0.1 * float(small.max())
    reach = max(1, round(REACH_MM / level_mm))
    core = 1 - dilate((~brain)[None, None].float(), 1)[0, 0]
    mask = brain[None, None].float()
    near = dilate(mask, reach)[0, 0] > 0
    chosen = near.flatten().nonzero()[:, 0]
    world = transform(affine, identity(small.shape).flatten(2)[..., chosen].double())[0]
    centre = world[:, brain.flatten()[chosen]].mean(1)
    values, brains, cores = (each.flatten()[chosen].double() for each in (small, brain, core))
    return _Fixed((world - centre[:, None]).T, values, brains, cores, centre.numpy())


def _moving_level(volume: Tensor, affine: NDArray[np.float64]) -> _Moving:
    inside = foreground(volume[None])
    air = float(volume[~inside].median()) if bool((~inside).any()) else float(volume.min())
    bright = float(torch.quantile(volume[inside][:: max(1, int(inside.sum()) // 20_000)], 0.98))
    level = ((volume - air) / max(bright - air, 1e-6)).clamp(0, 1.2)
    slopes = [
        torch.gradient(level, dim=axis)[0] if level.shape[axis] > 1 else torch.zeros_like(level)
        for axis in range(3)
    ]
    return _Moving(torch.stack([level, *slopes])[None], np.linalg.inv(affine))


def _search(fixed: _Fixed, moving: _Moving, starts: list[Tensor]) -> _State:
    """Return the best result of descents from several starts."""
    return min((_descend(fixed, moving, start) for start in starts), key=lambda state: state.loss)


def _starts(
    fixed: _Fixed, volume: Tensor, affine: NDArray[np.float64], turns: tuple[tuple[int, float], ...]
) -> list[Tensor]:
    """Return starts: centres and sizes matched, the head turned about one axis."""
    inside = foreground(volume[None]).flatten()
    world = transform(affine, identity(volume.shape).flatten(2)[..., inside].double())[0]
    centre = world.mean(1)
    own = fixed.places[fixed.brain > 0].std(0)
    sizes = (world.std(1, correction=0) / own).clamp(*_SIZES)
    starts = []
    for axis, degrees in turns:
        turn = torch.eye(3, dtype=torch.float64)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turn[first, first] = turn[second, second] = cosine
        turn[first, second], turn[second, first] = -sine, sine
        starts.append(torch.cat([turn @ torch.diag(sizes) * RADIUS_MM, centre[:, None]], 1))
    return starts


def _descend(fixed: _Fixed, moving: _Moving, motion: Tensor) -> _State:
    """Minimize from one start, by damped Gauss-Newton."""
    damping = _LIGHTEST
    state, step = _judge(fixed, moving, motion), None
    for _ in range(_STEPS):
        if step is None:
            normal, slope = _linearize(fixed, moving, state)
        step = torch.linalg.solve(normal + damping * torch.diag(normal.diagonal() + 1e-9), slope)
        moved = step[:12].view(3, 4)
        trial = _judge(fixed, moving, state.motion + moved)
        if trial.loss < state.loss:
            state, damping, step = trial, max(_LIGHTEST, damping / 5), None
            if float(moved.abs().max()) < _STILL_MM:
                break
        else:
            damping *= 10
            if damping > _HEAVIEST:
                break
    return state


def _read(fixed: _Fixed, moving: _Moving, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Return value and slopes (4, N) at every place's image.

    The second result (N,) is 1 where that lies within the field of view.
    """
    world = motion[:, :3] @ (fixed.places.T / RADIUS_MM) + motion[:, 3:]
    points = transform(moving.to_voxel, world[None])
    seen = within(points, moving.volume.shape[2:])
    return sample(moving.volume, points.float().view(1, 3, 1, 1, -1)).view(4, -1).double(), seen


def _judge(fixed: _Fixed, moving: _Moving, motion: Tensor) -> _State:
    """Fit the best cubic to a motion, and measure the unexplained share of the variance."""
    read, weight = _read(fixed, moving, motion)
    seen = float((weight * fixed.brain).sum() / fixed.brain.sum())
    powers = _powers(read[0])
    weighted = powers * weight
    normal = weighted @ powers.T + 1e-9 * torch.eye(_POWERS + 1, dtype=torch.float64)
    cubic = torch.linalg.solve(normal, weighted @ fixed.values)
    count = weight.sum().clamp(min=1e-9)
    mean = (weight * fixed.values).sum() / count
    variance = (weight * (fixed.values - mean).square()).sum().clamp(min=1e-9)
    loss = (weight * (fixed.values - cubic @ powers).square()).sum() / variance
    return _State(motion, cubic, float(loss) if seen > 0.25 else float("inf"), seen)


def _detail(fixed: _Fixed, moving: _Moving, state: _State) -> float:
    """Return the correlation of reference and scan within the brain's core."""
    read, weight = _read(fixed, moving, state.motion)
    chosen = (weight * fixed.core) > 0
    pair = torch.stack([fixed.values[chosen], read[0][chosen]])
    deviations = pair - pair.mean(1, keepdim=True)
    return float(deviations[0] @ deviations[1] / deviations.norm(dim=1).clamp(min=1e-9).prod())


def _linearize(fixed: _Fixed, moving: _Moving, state: _State) -> tuple[Tensor, Tensor]:
    """Return the normal equations for the motion (12) and the cubic (4)."""
    read, weight = _read(fixed, moving, state.motion)
    powers = _powers(read[0])
    gain = sum(order * state.cubic[order] * powers[order - 1] for order in range(1, _POWERS + 1))
    linear = torch.from_numpy(moving.to_voxel[:3, :3])
    slopes = gain * (linear.T @ read[1:])  # (3, N), per mm
    ones = torch.ones(1, len(fixed.places), dtype=torch.float64)
    homogeneous = torch.cat([fixed.places.T / RADIUS_MM, ones])
    rows = torch.cat([(slopes[:, None] * homogeneous[None]).flatten(0, 1), powers])
    weighted = rows * weight
    return weighted @ rows.T, weighted @ (fixed.values - state.cubic @ powers)


def _powers(values: Tensor) -> Tensor:
    return torch.stack([values**order for order in range(_POWERS + 1)])
