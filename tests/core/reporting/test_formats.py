from polyclinic.reporting import formats

DASH, MINUS, SPACE = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


def test_scores_and_differences() -> None:
    assert [formats.show_score(score) for score in (0.12345, None)] == ["0.123", DASH]
    shown = [formats.show_difference(gain) for gain in (0.1, -0.1, -0.0004)]
    assert shown == ["+0.100", f"{MINUS}0.100", "±0.000"]


def test_a_difference_is_that_of_the_decimals_that_are_shown() -> None:
    assert formats.subtract(0.62549, 0.57451) == 0.05
    assert formats.subtract(0.3, 0.1) == 0.2, "and free of the rounding of floats"
    compared = [formats.compare_scores(0.6, other) for other in (0.5, 0.7, 0.60049)]
    assert compared == ["0.100 above", "0.100 below", "level with"]


def test_shares() -> None:
    assert [formats.show_percent(share) for share in (0.5, -2.5, None)] == [
        "50 %",
        f"{MINUS}250 %",
        DASH,
    ]
    assert [formats.show_share(share) for share in (None, 0.0, 0.00002, 0.031, 0.25)] == [
        DASH, f"0{SPACE}%", f"0.002{SPACE}%", f"3.1{SPACE}%", f"25{SPACE}%",
    ]  # fmt: skip
    assert formats.show_interval(0.5, 0.75) == f"0.50{DASH}0.75"
    assert formats.show_interval(None, 0.75) == DASH


def test_rounds_are_joined_with_their_neighbours() -> None:
    assert formats.show_rounds([4, 2, 3, 7]) == f"2{DASH}4, 7"
    assert formats.show_rounds([5]) == "5"


def test_dates_and_durations() -> None:
    assert formats.show_date("2025-03-04T09:05:00+00:00") == "4 March 2025, 09:05 UTC"
    assert formats.show_date("yesterday") == "yesterday"
    begin = "2025-03-04T09:00:00"
    ends = ("2025-03-04T10:02:03", "2025-03-04T09:02:03", "2025-03-04T09:00:03", "soon")
    shown = [formats.show_duration(begin, end) for end in ends]
    assert shown == ["1 h 2 min", "2 min 3 s", "3 s", ""]
    assert formats.show_duration(begin, "2025-03-04T10:02:03Z") == "", "of unknown zones"


def test_spans_have_their_two_largest_units() -> None:
    spans = (0, 42, 60, 90, 3600, 3660, 90000, 86400, 86401)
    assert [formats.show_span(seconds) for seconds in spans] == [
        "0", "42 s", "1 min", "1 min 30 s", "1 h", "1 h 1 min", "1 d 1 h", "1 d", "1 d",
    ]  # fmt: skip


def test_bytes_and_seconds() -> None:
    counts = (None, 0, 999, 45_760, 999_499, 999_500, 4_200_000, 3_000_000_000)
    assert [formats.show_bytes(count) for count in counts] == [
        DASH, "0", "999 B", "45.8 kB", "999 kB", "1 MB", "4.2 MB", "3 GB",
    ]  # fmt: skip
    assert [formats.show_seconds(seconds) for seconds in (None, 0.323, 9.96, 90)] == [
        DASH, "0.32 s", "10.0 s", "1 min 30 s",
    ]  # fmt: skip
    assert formats.list_bytes({"b": 5, "a": 1234}) == "a 1.23 kB and b 5 B"


def test_lists_and_numbers_of_things() -> None:
    assert [formats.join_words(list(words)) for words in ("", "a", "ab", "abc")] == [
        "", "a", "a and b", "a, b and c",
    ]  # fmt: skip
    assert [formats.plural(count, "image") for count in (0, 1, 2)] == [
        "0 images", "1 image", "2 images",
    ]  # fmt: skip
