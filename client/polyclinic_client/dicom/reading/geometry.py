"""Frames to a volume: sorted by where they lie, and refused where they do not make a regular grid.

Never by name, number or time: a scanner numbers slices as it likes. A series is taken only if every
position of a regular grid has exactly one image; otherwise a sentence says what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.imaging.headers import Grid
from polyclinic_client.dicom.reading.elements import Malformed
from polyclinic_client.dicom.reading.frames import Frame

TURN = 1e-3  # directions that differ by less (as vectors of length 1) are the same
SAME = 1e-3  # voxel sizes that differ by a smaller part are the same
UNEVEN = 0.05  # of the distance between planes, by which a plane may lie off its place
RARE = 1 / 3  # of the distances: so many may be gaps; more of them are another spacing
SAME_PLACE_MM = 1e-3
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's x and y point the other way


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames in the order of their places.

    Attributes:
        order: For each plane of the volume, the place of its frame in the list that was given.
        grid: Shape (columns, rows, planes), and the affine to mm in RAS+.
    """

    order: tuple[int, ...]
    grid: Grid


def stack_frames(frames: Sequence[Frame], rows: int, columns: int) -> Stack:
    """Sort the frames of a series, and compute the grid on which they lie.

    Args:
        frames: At least one.
        rows: Of every frame.
        columns: Of every frame.

    Raises:
        Malformed: They are not the planes of one regular grid; the text says why.
    """
    _check_alike(frames)
    normal = np.mean([frame.normal for frame in frames], axis=0)
    normal /= np.linalg.norm(normal)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    _check_places(frames, heights, order)
    _check_contrast(frames)
    positions, heights = positions[order], heights[order]
    step = _step(frames, positions, heights, normal)
    first = frames[0]
    affine = np.eye(4)
    affine[:3, 0] = np.mean([frame.along_row for frame in frames], axis=0) * first.spacing[0]
    affine[:3, 1] = np.mean([frame.along_column for frame in frames], axis=0) * first.spacing[1]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    grid = Grid((columns, rows, len(frames)), TO_RAS @ affine)
    return Stack(tuple(int(place) for place in order), grid)


def _check_alike(frames: Sequence[Frame]) -> None:
    first = frames[0]
    turned = [
        frame
        for frame in frames
        if max(
            np.abs(np.subtract(frame.along_row, first.along_row)).max(),
            np.abs(np.subtract(frame.along_column, first.along_column)).max(),
        )
        > TURN
    ]
    if turned:
        raise Malformed(
            f"its images lie in different orientations ({len(turned)} of {len(frames)} are turned "
            "against the first)"
        )
    for frame in frames:
        if np.abs(np.subtract(frame.spacing, first.spacing)).max() > SAME * min(first.spacing):
            raise Malformed("its images have voxels of different sizes")


def _check_places(
    frames: Sequence[Frame], heights: NDArray[np.float64], order: NDArray[np.intp]
) -> None:
    """Refuse several images at one place, and say in what they differ."""
    gaps = np.diff(heights[order])
    if not len(gaps) or gaps.min() > SAME_PLACE_MM:
        return
    starts = np.concatenate([[0], np.flatnonzero(gaps > SAME_PLACE_MM) + 1, [len(order)]])
    counts = np.diff(starts)
    differ = _differing(frames)
    if counts.min() == counts.max():
        what = f"differ in {differ[0]}" if differ else "do not say in what they differ"
        raise Malformed(
            f"it has {counts[0]} images at each of {len(counts)} places, which {what} (a time "
            "series, echoes, or several volumes in one series)"
        )
    named = f" and differ in {differ[0]}" if differ else ""
    twice = int((counts > 1).sum())
    raise Malformed(
        f"several images lie at the same place ({twice} of {len(counts)} places){named}"
    )


def _check_contrast(frames: Sequence[Frame]) -> None:
    """Refuse planes of different contrast, however well they lie; acquisitions may change."""
    wrong = [name for name in _differing(frames) if name != "acquisition"]
    if wrong:
        raise Malformed(f"its images differ in {wrong[0]}: they are not of one volume")


def _differing(frames: Sequence[Frame]) -> list[str]:
    """Return what tells frames apart, by the number of its values: fewest first."""
    said = [dict(frame.differences) for frame in frames]
    values = {name: {each.get(name, "") for each in said} for name in set().union(*said)}
    several = {name: len(found) for name, found in values.items() if len(found) > 1}
    return sorted(several, key=lambda name: (name == "acquisition", several[name], name))


def _step(
    frames: Sequence[Frame],
    positions: NDArray[np.float64],
    heights: NDArray[np.float64],
    normal: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the vector from one plane to the next."""
    count = len(frames)
    if count == 1:
        if frames[0].thickness <= 0:
            raise Malformed("it is a single image and does not say how thick it is")
        return np.asarray(normal * frames[0].thickness)
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    _check_gaps(gaps, usual)
    step = np.asarray((positions[-1] - positions[0]) / (count - 1))
    lean = float(np.linalg.norm(step - normal * (step @ normal))) / float(step @ normal)
    sideways = lean * float(step @ normal) * (count - 1)
    if sideways > UNEVEN * min(frames[0].spacing) and lean > TURN:
        angle = float(np.degrees(np.arctan(lean)))
        raise Malformed(
            f"its slices are sheared by {angle:.1f} degrees (gantry tilt, or slices that are "
            "shifted sideways)"
        )
    even = positions[0] + np.arange(count)[:, None] * step
    if np.linalg.norm(positions - even, axis=1).max() > UNEVEN * usual:
        raise Malformed("the distance between its slices varies")
    return step


def _check_gaps(gaps: NDArray[np.float64], usual: float) -> None:
    uneven = np.abs(gaps - usual) > UNEVEN * usual
    if not uneven.any():
        return
    multiples = gaps[uneven] / usual
    whole = np.rint(multiples)
    few = uneven.sum() <= RARE * len(gaps)
    if few and (whole >= 2).all() and (np.abs(multiples - whole) <= 2 * UNEVEN).all():
        raise Malformed(
            f"{int(whole.sum() - len(whole))} slice(s) are missing: the distance between slices is "
            f"{usual:.3g} mm, and in {len(whole)} place(s) a multiple of it"
        )
    raise Malformed(
        f"the distance between its slices varies from {gaps.min():.3g} to {gaps.max():.3g} mm "
        "(slices are missing, or several stacks share one series)"
    )
