"""Bins: their width, and what is read from them is within a bin of the values themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic_strategies.planning.bins import (
    EXTENT_EDGES,
    INTENSITY_EDGES,
    SHAPE_EDGES,
    SPACING_EDGES,
    centre,
    count_of,
    mean_and_deviation,
    one_hot,
    percentile,
    shares,
    simplest,
    whole,
)

LENGTHS = {"spacing": SPACING_EDGES, "extent": EXTENT_EDGES, "shape": SHAPE_EDGES}


@pytest.mark.parametrize("edges", LENGTHS.values(), ids=LENGTHS)
def test_a_bin_of_lengths_is_one_percent_wide(edges: np.ndarray) -> None:
    assert np.allclose(edges[1:] / edges[:-1], 1.01)


def test_bins_of_intensities_are_fine_around_0_and_2_percent_far_from_it() -> None:
    assert np.allclose(INTENSITY_EDGES, -INTENSITY_EDGES[::-1], rtol=1e-6, atol=1e-9)
    widths = np.diff(INTENSITY_EDGES)
    assert widths.min() == pytest.approx(0.02, rel=0.01)
    far = np.searchsorted(INTENSITY_EDGES, 100.0)
    assert widths[far] == pytest.approx(2.0, rel=0.03)
    middle = percentile(one_hot(0.0, INTENSITY_EDGES), 0.5)
    assert centre(middle, INTENSITY_EDGES) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("value", [1.0, 0.5, 3.6, 0.62, 0.78, 1.25, 0.05, 10.0, 240.0])
def test_usual_lengths_are_found_again(value: float) -> None:
    place = percentile(one_hot(value, SPACING_EDGES), 0.5)
    assert simplest(place, SPACING_EDGES) == value


@given(st.floats(1e-3, 999.0))
def test_the_simplest_number_of_a_bin_lies_in_it(value: float) -> None:
    place = percentile(one_hot(value, SPACING_EDGES), 0.5)
    found = simplest(place, SPACING_EDGES)
    assert SPACING_EDGES[place] <= found <= SPACING_EDGES[place + 1] * (1 + 1e-9)
    assert found == pytest.approx(value, rel=0.0101)


@given(st.integers(1, 60_000))
def test_the_whole_number_of_a_bin_is_within_a_percent(voxels: int) -> None:
    found = whole(percentile(one_hot(voxels, SHAPE_EDGES), 0.5), SHAPE_EDGES)
    assert abs(found - voxels) <= max(0.01 * voxels, 0)
    assert voxels > 50 or found == voxels


@pytest.mark.parametrize("value", [-1e300, -1e9, 0.0, 1e9, 1e300])
def test_what_lies_beyond_counts_in_the_outermost_bin(value: float) -> None:
    for edges in (*LENGTHS.values(), INTENSITY_EDGES):
        assert one_hot(value, edges).sum() == 1.0
    outermost = {-1e300: 0, -1e9: 0, 1e9: -1, 1e300: -1}
    if value in outermost:
        assert one_hot(value, INTENSITY_EDGES)[outermost[value]] == 1.0


def test_percentiles_by_hand() -> None:
    histogram = np.array([0.0, 0.25, 0.25, 0.0, 0.5])
    assert [percentile(histogram, share) for share in (0.0, 0.25, 0.5, 0.51, 1.0)] == [
        1,
        1,
        2,
        4,
        4,
    ]
    with pytest.raises(ValueError, match="empty"):
        percentile(np.zeros(3), 0.5)
    assert shares(np.zeros(0, np.float32), SPACING_EDGES).sum() == 0.0


@given(
    st.lists(st.floats(-3000, 3000, width=32), min_size=1, max_size=200),
    st.sampled_from([0.005, 0.5, 0.995]),
)
def test_percentiles_and_means_of_intensities_are_within_a_bin(
    values: list[float], share: float
) -> None:
    found = shares(np.array(values, np.float32), INTENSITY_EDGES)
    pooled = float(np.percentile(values, 100 * share, method="inverted_cdf"))
    place = percentile(found, share)
    assert INTENSITY_EDGES[place] - 1e-6 <= pooled <= INTENSITY_EDGES[place + 1] + 1e-6
    mean, deviation = mean_and_deviation(found, INTENSITY_EDGES)
    widest = 0.02 * (1 + max(map(abs, values)))
    assert mean == pytest.approx(np.mean(values), abs=widest)
    assert deviation == pytest.approx(np.std(values), abs=widest)
    assert count_of(INTENSITY_EDGES) == len(found)
