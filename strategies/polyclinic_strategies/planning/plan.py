"""From the hospitals' cases together to a plan: settings, each with its reason."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from polyclinic.config.plan_files import Plan
from polyclinic.config.schemas import DataConfig, Setting
from polyclinic.errors import ConfigError
from polyclinic_strategies.planning.cohort import Cohort
from polyclinic_strategies.planning.rules import (
    FEATURES,
    LARGEST_SHARE,
    LEAST_BATCH,
    MOST_FEATURES,
    Geometry,
    choose_dimensions,
    choose_geometry,
    choose_shape,
    choose_spacing,
    is_ct,
    slice_axis,
)
from polyclinic_strategies.planning.strategy import Planning

NAMES = {2: "planned_2d", 3: "planned"}  # of conf/data


def make_plan(cohort: Cohort, data: DataConfig, planning: Planning) -> Plan:
    """Choose all settings.

    Args:
        cohort: All hospitals' cases together.
        data: Classes, channels and orientation, as the fingerprints were taken.
        planning: Memory and the like.

    Returns:
        The plan, without a digest.

    Raises:
        ConfigError: The memory is too little, or 3-D is asked for and images are single slices.
    """
    spacing, coarse = choose_spacing(cohort)
    shape = choose_shape(cohort, spacing)
    asked = planning.dimensions or (2 if data.spatial_dims == 2 else None)
    dims, why_dims = choose_dimensions(shape, asked)
    axes, orientation = _axes(shape, spacing, data.orientation, dims)
    spacing, shape = tuple(spacing[axis] for axis in axes), tuple(shape[axis] for axis in axes)
    voxels = math.prod(shape) * float(cohort.patients)
    geometry = choose_geometry(
        shape[:dims],
        spacing[:dims],
        len(data.labels),
        voxels,
        planning.memory_gb,
        residual=planning.residual,
    )
    chosen: dict[str, tuple[Setting, str]] = {
        "data.spacing_mm": (list(spacing), _why_spacing(cohort, coarse, axes)),
        "data.patch": (list(geometry.patch), _why_patch(geometry, shape, dims, why_dims, planning)),
        **_intensities(cohort, data),
        "training.batch_size": (geometry.batch_size, _why_batch(geometry, cohort, planning)),
        "model.features": (FEATURES, f"as nnU-Net; the network has {geometry.stages} stages"),
        "model.most_features": (MOST_FEATURES[dims], "as nnU-Net"),
    }
    if orientation != data.orientation:
        chosen["data.orientation"] = (orientation, "2-D slices lie across the coarsest axis")
    if planning.residual:
        chosen["model.residual"] = (True, "asked for")
    settings = {**_task(data), **{key: value for key, (value, _) in chosen.items()}}
    return Plan(
        data=NAMES[dims],
        settings=settings,
        reasons={key: why for key, (_, why) in chosen.items()},
        memory_gb=round(geometry.memory_gb, 3),
        fingerprint=summarize(cohort, data),
    )


def summarize(cohort: Cohort, data: DataConfig) -> dict[str, Any]:
    """Return what is known of the cases, in plain figures."""
    found: dict[str, Any] = {
        "patients": cohort.patients,
        "hospitals": [f"{site}: {count}" for site, count in sorted(cohort.weights.items())][:256],
        "median spacing_mm": list(cohort.spacing_mm()),
        "spacing_mm, percentile 10": list(cohort.spacing_mm(0.1)),
        "spacing_mm, percentile 90": list(cohort.spacing_mm(0.9)),
        "median shape": list(cohort.shape()),
        "median extent_mm": list(cohort.extent_mm()),
        "share of voxels of each class": [_short(share) for share in cohort.parts["classes"]],
        "share within borders of 0": _short(cohort.box_share),
    }
    for number, figures in enumerate(cohort.intensities()):
        if figures is not None:
            name = data.modality[number] if data.modality else f"channel {number}"
            key = f"foreground of {name}: percentiles 0.5 and 99.5, mean, deviation"
            found[key[:100]] = [_short(each) for each in figures]
    return found


def _task(data: DataConfig) -> dict[str, Setting]:
    """Return what the fingerprints were taken with, and a plan takes over."""
    regions: dict[str, Setting] = {}
    if data.task == "regions":
        regions = {"data.task": "regions", "data.region_values": list(data.region_values)}
    return {
        **regions,
        "data.labels": list(data.labels),
        "data.channels": data.channels,
        "data.modality": list(data.modality),
        "data.orientation": data.orientation,
        "data.nan_as_zero": data.nan_as_zero,
        "data.mirroring": data.mirroring,
    }


def _axes(
    shape: Sequence[int], spacing_mm: Sequence[float], orientation: str, dims: int
) -> tuple[tuple[int, ...], str]:
    """Return the order of axes that puts that of slices last in 2-D, and its orientation."""
    if dims == 3 or len(orientation) != len(shape):
        return (0, 1, 2), orientation
    last = slice_axis(shape, spacing_mm)
    axes = (*(axis for axis in range(len(shape)) if axis != last), last)
    return axes, "".join(orientation[axis] for axis in axes)


def _intensities(cohort: Cohort, data: DataConfig) -> dict[str, tuple[Setting, str]]:
    """Choose how each channel is normalized.

    Raises:
        ConfigError: A channel is CT, and no case has foreground.
    """
    names = data.modality or ("",) * data.channels
    normalization: list[Any] = ["ct" if is_ct(name) else "z_score" for name in names]
    foreground: list[Any] = []
    if "ct" in normalization:
        for name, figures in zip(names, cohort.intensities(), strict=True):
            if figures is None:
                raise ConfigError(
                    f"No case of these hospitals has a voxel of foreground, so that intensities of "
                    f"{name} cannot be measured: check their label maps and data.labels."
                )
            foreground += [_short(each) for each in figures]
    why = (
        "CT: clipped to percentiles 0.5 and 99.5 of the foreground"
        if "ct" in normalization
        else "no channel is named CT in data.modality: each image is scaled by itself"
    )
    return {
        "data.normalization": (normalization, why),
        "data.foreground": (
            foreground,
            "low, high, mean and deviation of each channel" if foreground else "only CT needs it",
        ),
    }


def _why_spacing(cohort: Cohort, coarse: int | None, axes: Sequence[int]) -> str:
    if cohort.are_pictures:
        return "the images are pictures: a pixel counts as 1 mm"
    if coarse is None:
        return "the median of all cases along each axis"
    return (
        f"the median of all cases; percentile 10 along axis {axes.index(coarse) + 1}, far coarser"
    )


def _why_patch(
    geometry: Geometry, shape: Sequence[int], dims: int, why_dims: str, planning: Planning
) -> str:
    image = f"the median image, {'x'.join(map(str, shape[:dims]))} voxels"
    if not geometry.cut:
        return f"{dims}-D: {why_dims}; all of {image}"
    return (
        f"{dims}-D: {why_dims}; of {image}, as much as fits {planning.memory_gb:g} GiB "
        f"{LEAST_BATCH} times"
    )


def _why_batch(geometry: Geometry, cohort: Cohort, planning: Planning) -> str:
    used = f"training takes about {geometry.memory_gb:.1f} GiB"
    if geometry.batch_size == LEAST_BATCH:
        return f"the smallest; {used}"
    if geometry.by_data:
        share = f"{LARGEST_SHARE:.0%} of the voxels of {cohort.patients} patients"
        return f"a batch holds {share} at most; {used}"
    return f"as many as fit {planning.memory_gb:g} GiB; {used}"


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def table_rows(plan: Plan) -> Mapping[str, tuple[str, str]]:
    """Return what a person reads of a plan: setting to value and reason."""
    return {
        key: (_show(value), plan.reasons.get(key, "as it was given"))
        for key, value in sorted(
            plan.settings.items(), key=lambda item: item[0] not in plan.reasons
        )
    }


def _show(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_show, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
