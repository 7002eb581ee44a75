"""nnU-Net's rules: its published plans come out, and invariants hold."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from polyclinic.errors import ConfigError
from polyclinic.learning.networks.dynunet import PlannedUNet
from polyclinic.learning.networks.topology import MOST_STAGES, plan_topology
from polyclinic_strategies.planning.rules import (
    LEAST_STAGES,
    NUMBERS_PER_GB,
    choose_dimensions,
    choose_geometry,
    choose_shape,
    choose_spacing,
    is_ct,
    slice_axis,
)
from tests.strategies.planning.cohorts import Image, cohort

PUBLISHED = {  # nnU-Net's plans: median shape, spacing, classes, cases; patch, batch, stages
    "hippocampus": ((36, 50, 35), (1.0, 1.0, 1.0), 3, 260, (40, 56, 40), 9, 4),
    "prostate": ((20, 320, 319), (3.6, 0.62, 0.62), 3, 32, (20, 320, 256), 2, 7),
    "liver": ((482, 512, 512), (1.0, 0.767, 0.767), 3, 131, (128, 128, 128), 2, 6),
    "spleen": ((187, 512, 512), (1.6, 0.79, 0.79), 2, 41, (64, 192, 160), 2, 6),
    "heart": ((115, 320, 232), (1.37, 1.25, 1.25), 2, 20, (80, 192, 160), 2, 6),
    "brain tumour": ((140, 171, 137), (1.0, 1.0, 1.0), 4, 484, (128, 128, 128), 2, 6),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_published_plans_come_out(task: str) -> None:
    shape, spacing, classes, cases, patch, batch, stages = PUBLISHED[task]
    found = choose_geometry(shape, spacing, classes, math.prod(shape) * cases, 8.0)
    assert (found.patch, found.batch_size, found.stages) == (patch, batch, stages)
    assert found.memory_gb <= 8.0


@pytest.mark.parametrize(
    ("shape", "spacing", "voxels", "patch", "batch"),
    [
        ((50, 35), (1.0, 1.0), 36 * 50 * 35 * 260, (56, 40), 366),  # hippocampus
        ((512, 512), (0.767, 0.767), 482 * 512 * 512 * 131, (512, 512), 12),  # liver
    ],
)
def test_published_plans_in_2d_come_out(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    voxels: float,
    patch: tuple[int, ...],
    batch: int,
) -> None:
    found = choose_geometry(shape, spacing, 3, voxels, 8.0)
    assert (found.patch, found.batch_size) == (patch, batch)


def test_the_decathlons_hippocampus_from_its_cases() -> None:
    images = [Image((34 + at % 5, 48 + at % 5, 33 + at % 5)) for at in range(260)]
    found = cohort(images)
    spacing, coarse = choose_spacing(found)
    assert spacing == (1.0, 1.0, 1.0) and coarse is None
    assert choose_shape(found, spacing) == (36, 50, 35)


def test_the_decathlons_prostate_from_its_cases() -> None:
    images = [Image((320, 320, 20), (0.62, 0.62, 3.6))] * 25 + [
        Image((320, 320, 15), (0.6, 0.6, 4.0))
    ] * 7
    found = cohort(images)
    spacing, coarse = choose_spacing(found)
    assert spacing == (0.62, 0.62, 3.6) and coarse == 2
    shape = choose_shape(found, spacing)
    assert shape[2] == 20 and abs(shape[0] - 320) <= 3


def test_a_far_coarser_axis_gets_percentile_10_but_no_finer_than_the_others() -> None:
    thick = [Image((256, 256, 20), (0.8, 0.8, 6.0))] * 8
    thin = [Image((256, 256, 30), (0.8, 0.8, 4.0))] * 2
    assert choose_spacing(cohort(thick + thin)) == ((0.8, 0.8, 4.0), 2)
    finest = [Image((256, 256, 60), (0.8, 0.8, 0.5))] * 2
    assert choose_spacing(cohort(thick + finest)) == ((0.8, 0.8, 0.8), 2)
    # as coarse, but as many voxels: the median
    many = [Image((60, 60, 60), (0.8, 0.8, 6.0))] * 8 + [Image((60, 60, 60), (0.8, 0.8, 4.0))] * 2
    assert choose_spacing(cohort(many)) == ((0.8, 0.8, 6.0), None)


def test_dimensions() -> None:
    assert choose_dimensions((256, 256, 1), None)[0] == 2
    assert choose_dimensions((256, 256, 7), None)[0] == 2
    assert choose_dimensions((256, 256, 8), None)[0] == 3
    assert choose_dimensions((256, 256, 7), 3)[0] == 3
    assert choose_dimensions((256, 256, 80), 2)[0] == 2
    with pytest.raises(ConfigError, match="single slices"):
        choose_dimensions((256, 256, 1), 3)


def test_slices_lie_across_the_coarsest_axis() -> None:
    assert slice_axis((256, 256, 30), (1, 1, 5)) == 2
    assert slice_axis((12, 256, 256), (4, 0.6, 0.6)) == 0
    assert slice_axis((200, 200, 180), (1, 1.2, 1)) == 2  # hardly coarser
    assert slice_axis((1, 256, 256), (1, 1, 1)) == 0


def test_channels_of_ct() -> None:
    assert all(map(is_ct, ("CT", "ct", " CT venous", "CT_portal")))
    assert not any(map(is_ct, ("PET-CT", "T1", "", "CTA", "contrast", "MR")))


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="memory-gb"):
        choose_geometry((128, 128, 128), (1, 1, 1), 2, 1e9, 0.0001)


def test_an_image_a_bin_above_a_multiple_is_not_padded_to_the_next() -> None:
    assert choose_geometry((386, 386), (0.7, 0.7), 2, 1e9, 8.0).patch == (384, 384)
    assert choose_geometry((392, 384), (0.7, 0.7), 2, 1e9, 8.0).patch == (448, 384)


def test_small_images_are_surrounded_so_that_the_network_can_be_built() -> None:
    for shape, spacing, patch in (
        ((5, 16, 14), (3.0, 3.0, 3.0), (16, 16, 16)),
        ((16, 14), (1.0, 1.0), (16, 16)),
        ((20, 20, 5), (1.0, 1.0, 5.0), (20, 20, 5)),
        ((1, 1, 1), (0.1, 1.0, 2.0), None),
    ):
        found = choose_geometry(shape, spacing, 2, 1e6, 8.0)
        assert found.stages >= LEAST_STAGES
        assert patch is None or found.patch == patch
        PlannedUNet(found.patch, (*spacing, 1.0)[:3], 1, 2, 2, 4)


@settings(deadline=None, max_examples=60)
@example([113, 13], [0.21875, 7.0, 1.0], 1.0, 1, False)
@given(
    st.lists(st.integers(1, 700), min_size=2, max_size=3),
    st.lists(st.floats(0.2, 9.0), min_size=3, max_size=3),
    st.floats(0.5, 80.0),
    st.integers(1, 1000),
    st.booleans(),
)
def test_any_plan_fits_the_memory_and_the_network(
    shape: list[int], spacing: list[float], budget_gb: float, cases: int, residual: bool
) -> None:
    dims = len(shape)
    voxel = spacing[:dims]
    voxels = math.prod(shape) * cases
    found = choose_geometry(shape, voxel, 3, voxels, budget_gb, residual=residual)
    assert found.memory_gb <= budget_gb * (1 + 1e-9) and found.batch_size >= 2
    strides = plan_topology(found.patch, voxel).strides[:MOST_STAGES]
    for axis, size in enumerate(found.patch):
        factor = math.prod(step[axis] for step in strides)
        assert size % factor == 0
        assert size < max(shape[axis], 32) + factor  # small images are surrounded
    assert found.stages >= LEAST_STAGES
    if found.batch_size > 2:
        assert found.batch_size * math.prod(found.patch) <= 0.05 * voxels + math.prod(found.patch)
    more = choose_geometry(shape, voxel, 3, voxels, 2 * budget_gb, residual=residual)
    assert math.prod(more.patch) >= math.prod(found.patch)
    assert NUMBERS_PER_GB[dims] > 0
