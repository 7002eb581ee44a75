from itertools import pairwise

import pytest

from polyclinic.reporting.axes import Axis, Frame, shorten, spread, ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.61, 0.83), (0.5, 0.5), (-3.0, 1e6), (0.0, 1e-9)]
)
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 8


def test_an_axis_maps_its_ends_and_one_value_to_the_middle() -> None:
    axis = Axis(1.0, 3.0, 40.0, 100.0)
    assert [axis(value) for value in (1.0, 1.5, 3.0)] == [40.0, 55.0, 100.0]
    assert Axis(2.0, 2.0, 40.0, 100.0)(2.0) == 70.0
    assert axis.ticks([1, 2.5]) == ((40.0, "1"), (85.0, "2.5"))


def test_a_frame_has_room_on_both_sides_and_values_grow_upwards() -> None:
    frame = Frame(200, 100, left=20, right=180, top=10, bottom=90, inset=5)
    x, y = frame.x(0, 1), frame.y(0, 1)
    assert (x(0), x(1)) == (25.0, 175.0)
    assert (y(0), y(1)) == (90.0, 10.0)


def test_titles_beside_the_plot_do_not_overlap() -> None:
    placed = sorted(spread([100.0, 101.0, 99.0, 261.0, 262.0], 262.0))
    assert all(below - above >= 14 for above, below in pairwise(placed))
    assert placed[-1] <= 262


def test_long_titles_are_cut() -> None:
    assert shorten("short", 5) == "short"
    assert shorten("longer", 5) == "long…"
