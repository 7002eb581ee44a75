import pytest

from polyclinic_strategies.refinement.events import tell_shares
from polyclinic_strategies.refinement.report.narrative import tell_distance, tell_lead
from tests.pages import figures


def test_one_newcomer_is_not_many() -> None:
    one = tell_lead("Dice", 1, 0, 0.4, 0.6, "averaging")
    assert one.startswith("One hospital ") and figures(one) == ["0.600", "0.400"]
    many = tell_lead("Dice", 0, 13, 0.4, 0.6, "averaging")
    assert many.startswith("13 hospitals ") and "averaging" in many


def test_who_joined_later_had_no_labels() -> None:
    assert "without labels" in tell_lead("Dice", 3, 0, 0.4, 0.6, "averaging")
    assert "without labels" not in tell_lead("Dice", 0, 3, 0.4, 0.6, "averaging")


def test_what_is_not_known_is_not_compared() -> None:
    assert figures(tell_lead("Dice", 1, 0, None, 0.6, "")) == ["0.600"]
    assert figures(tell_lead("Dice", 0, 0, None, None, "")) == []


def test_shares_in_words() -> None:
    assert tell_shares({"t2w": 0.616, "flair": 0.38, "t1w": 0.004}) == "62 % t2w, 38 % flair"
    many = tell_shares({"a": 0.4, "b": 0.2, "c": 0.2, "d": 0.1, "e": 0.1})
    assert many == "40 % a, 20 % b, 20 % c, 20 % of 2 others"
    few, equal = (
        tell_shares(dict.fromkeys("abc", 1 / 3)),
        tell_shares(dict.fromkeys("abcdef", 1 / 6)),
    )
    assert few.endswith("a, b and c") and figures(few) == []
    assert figures(equal) == ["6"] and "a, b" not in equal
    assert "%" not in tell_shares({})


@pytest.mark.parametrize(
    ("distance", "near"), [(0.99, "near (0.99)"), (1.0, "far (1.00)"), (None, "")]
)
def test_near_is_less_than_the_median(distance: float | None, near: str) -> None:
    assert tell_distance(distance, "") == near
    assert tell_distance(distance, "too far") == "too far"
