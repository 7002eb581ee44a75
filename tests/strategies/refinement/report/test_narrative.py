from polyclinic_strategies.refinement.shares import tell_shares

from polyclinic_strategies.refinement.report.narrative import (
    show_bytes,
    show_seconds,
    tell_distance,
    tell_lead,
)


def test_one_newcomer_is_not_many() -> None:
    assert tell_lead("Dice", 1, 0, 0.4, 0.6, "averaging").startswith(
        "One hospital that joined later, without labels and without training, got a"
    )
    assert "got a model of its own: Dice 0.600; there is nothing to compare" in tell_lead(
        "Dice", 1, 0, None, 0.6, ""
    )
    assert tell_lead("Dice", 0, 13, 0.4, 0.6, "averaging").startswith(
        "13 hospitals that took part got a model of their own"
    )
    assert tell_lead("Dice", 0, 0, None, None, "") == "There are no scores of refined models yet."


def test_shares_in_words() -> None:
    assert tell_shares({"t2w": 0.616, "flair": 0.38, "t1w": 0.004}) == "62 % t2w, 38 % flair"
    assert (
        tell_shares({"a": 0.4, "b": 0.2, "c": 0.2, "d": 0.1, "e": 0.1})
        == "40 % a, 20 % b, 20 % c, 20 % of 2 others"
    )
    assert tell_shares(dict.fromkeys("abcdef", 1 / 6)) == "equal shares of 6 hospitals"
    assert tell_shares({}) == "nothing"
    assert (tell_distance(0.99, ""), tell_distance(1.0, ""), tell_distance(None, "")) == (
        "near (0.99)",
        "far (1.00)",
        "",
    )


def test_bytes_and_seconds_in_words() -> None:
    assert [show_bytes(count) for count in (0, 999, 45_760, 999_499, 999_500, 4_200_000)] == [
        "0",
        "999 B",
        "45.8 kB",
        "999 kB",
        "1 MB",
        "4.2 MB",
    ]
    assert [show_seconds(seconds) for seconds in (0.323, 9.96, 90)] == [
        "0.32 s",
        "10.0 s",
        "1 min 30 s",
    ]
