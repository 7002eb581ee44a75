"""The best round: more hospitals before a higher mean, of equal ones the earlier."""

from polyclinic.reporting.best_round import RoundScore, find_best, score_round


def test_the_highest_mean_wins_and_the_last_is_beside_it() -> None:
    rounds = {1: {"a": 0.5, "b": 0.7}, 2: {"a": 0.8, "b": 0.8}, 3: {"a": 0.8, "b": 0.6}}
    assert find_best(rounds) == (RoundScore(2, 0.8, 2), RoundScore(3, 0.7, 2))


def test_more_hospitals_count_more_than_a_higher_mean() -> None:
    rounds = {1: {"a": 0.9}, 2: {"a": 0.4, "b": 0.4}, 3: {"a": 1.0}}
    assert find_best(rounds) == (RoundScore(2, 0.4, 2), RoundScore(2, 0.4, 2))


def test_of_equal_rounds_the_earlier_one() -> None:
    found = find_best({2: {"a": 0.5}, 1: {"a": 0.5}})
    assert found is not None and found[0].round == 1 and found[1].round == 2


def test_rounds_without_scores_are_none() -> None:
    assert score_round(1, {}) is None and find_best({1: {}}) is None and find_best({}) is None


def test_round_by_round_gives_the_same_as_all_at_once() -> None:
    rounds = {n: {site: (n * k) % 7 / 7 for k, site in enumerate("abc"[: 1 + n % 3], 1)}
              for n in range(1, 12)}  # fmt: skip
    best = None
    for number, scores in rounds.items():
        found = score_round(number, scores)
        best = found if found is not None and found.beats(best) else best
    whole = find_best(rounds)
    assert whole is not None and whole[0] == best
