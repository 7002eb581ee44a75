"""All hospitals together: medians and percentiles within a bin of the pooled ones."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic_strategies.planning.bins import (
    EXTENT_EDGES,
    INTENSITY_EDGES,
    SHAPE_EDGES,
    SPACING_EDGES,
    one_hot,
    percentile,
)
from polyclinic_strategies.planning.cohort import combine
from tests.strategies.planning.cohorts import Image, cohort, fingerprint

SIZES = st.tuples(*[st.integers(1, 600)] * 3)
SPACINGS = st.tuples(*[st.floats(0.1, 12.0)] * 3)
IMAGES = st.builds(
    Image, SIZES, SPACINGS, st.lists(st.floats(-1000, 3000, width=32), min_size=3, max_size=3)
)
HOSPITALS = st.lists(st.lists(IMAGES, min_size=1, max_size=9), min_size=1, max_size=5)


def pooled(rows: Sequence[Sequence[float]], share: float) -> list[float]:
    """Percentile along each axis, of all values together."""
    return [
        float(np.percentile(each, 100 * share, method="inverted_cdf"))
        for each in zip(*rows, strict=True)
    ]


def bin_of(value: float, edges: np.ndarray) -> int:
    return percentile(one_hot(value, edges), 0.5)


@settings(deadline=None, max_examples=60)
@given(HOSPITALS)
def test_figures_are_within_a_bin_of_the_pooled_ones(hospitals: list[list[Image]]) -> None:
    found = combine({f"h{at}": fingerprint(images) for at, images in enumerate(hospitals)})
    images = [image for each in hospitals for image in each]
    assert found.patients == len(images)
    spacing = [image.spacing_mm for image in images]
    for share in (0.1, 0.5, 0.9):
        for got, want in zip(found.spacing_mm(share), pooled(spacing, share), strict=True):
            assert abs(bin_of(got, SPACING_EDGES) - bin_of(want, SPACING_EDGES)) <= 1
            assert got == pytest.approx(want, rel=0.0102)
    for got, want in zip(
        found.extent_mm(), pooled([each.extent_mm for each in images], 0.5), strict=True
    ):
        assert abs(bin_of(got, EXTENT_EDGES) - bin_of(want, EXTENT_EDGES)) <= 1
    for got, want in zip(found.shape(), pooled([each.shape for each in images], 0.5), strict=True):
        assert abs(bin_of(got, SHAPE_EDGES) - bin_of(want, SHAPE_EDGES)) <= 1
    values = np.array([each.intensities for each in images]).ravel()
    figures = found.intensities()[0]
    assert figures is not None
    for got, share in zip(figures[:2], (0.005, 0.995), strict=True):
        want = float(np.percentile(values, 100 * share, method="inverted_cdf"))
        assert abs(bin_of(got, INTENSITY_EDGES) - bin_of(want, INTENSITY_EDGES)) <= 1
    assert figures[2] == pytest.approx(values.mean(), abs=0.02 * (1 + np.abs(values).max()))


def test_hospitals_count_by_their_patients() -> None:
    small, large = [Image((10, 10, 10))], [Image((90, 90, 90))] * 3
    found = combine({"small": fingerprint(small), "large": fingerprint(large)})
    assert found.weights == {"small": 1, "large": 3}
    assert found.shape() == (90, 90, 90)


def test_a_hospital_that_claims_too_many_patients_moves_the_median_by_its_share_alone() -> None:
    honest = {f"h{at}": fingerprint([Image((50, 50, 50))] * 20) for at in range(4)}
    liar = fingerprint([Image((500, 500, 500))])
    claimed = type(liar)(10**9, liar.parts)
    unlimited = combine({**honest, "liar": claimed})
    assert unlimited.shape() == pytest.approx((500, 500, 500), rel=0.01)
    capped = combine({**honest, "liar": claimed}, most_ratio=1.0)
    assert capped.weights["liar"] == 20 and capped.shape() == (50, 50, 50)


def test_the_order_of_hospitals_plays_no_part() -> None:
    found = {f"h{at}": fingerprint([Image((at + 3, 7, 9))] * (at + 1)) for at in range(5)}
    one, other = combine(found), combine(dict(reversed(found.items())))
    assert all((one.parts[name] == other.parts[name]).all() for name in one.parts)


def test_a_channel_without_foreground_has_no_figures() -> None:
    assert cohort([Image((4, 4, 4), intensities=())]).intensities() == [None]
    with pytest.raises(ValueError, match="no fingerprint"):
        combine({})
