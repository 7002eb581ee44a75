"""Which validation cases a round scores: the same ones after each."""

from polyclinic.learning.cases.drawn import draw_places


def test_the_same_places_for_a_seed_and_no_more_than_asked() -> None:
    first = draw_places(30, 8, 5)
    assert first == draw_places(30, 8, 5) == sorted(set(first)) and len(first) == 8
    assert {tuple(draw_places(30, 8, seed)) for seed in range(5)} != {tuple(first)}


def test_all_where_nothing_is_asked_or_there_are_fewer() -> None:
    assert draw_places(4, 0, 0) == draw_places(4, 8, 0) == draw_places(4, 4, 0) == [0, 1, 2, 3]
    assert draw_places(0, 8, 0) == []
