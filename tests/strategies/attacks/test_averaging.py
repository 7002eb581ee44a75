"""A hospital that lies in rounds: the run ends, the liar is named, and honest figures stay."""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from polyclinic.config.compose import instantiate, load_config
from polyclinic.federation.events import Answered, ArmStart, Joined, Note
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.records import Order, round_of
from polyclinic.federation.run_folder import RunFolder
from polyclinic.reporting.results import read_results
from polyclinic_server.reports.participation import find_absences, list_rounds
from tests.fakes import Answer, make_error
from tests.strategies.attacks.in_rounds import (
    GREETING,
    SCORING,
    TRAINING,
    answer_with,
    greeted,
    measured,
    updated,
)
from tests.strategies.attacks.twins import BASE, HONEST, LIAR, NUMBERS, ORDER, Attack, Federation

ROBUST = "averaging/fedtrimmedavg"
CLOSE = 0.02


def average(
    federation: Federation, strategy: str, order: Order = ORDER, **limits: Any
) -> dict[str, float]:
    """Run all rounds and the test; return the honest hospitals' final scores."""
    random.seed(0)
    config = load_config([f"strategy={strategy}"])
    deployment = replace(
        config.deployment, **{"min_hospitals": 3, "wait_s": 5.0, "round_timeout_s": 10.0, **limits}
    )
    averaging = instantiate(config.strategy, _recursive_=False)
    grid = ReliableGrid(federation.grid, federation.attendance, deployment, federation.note)
    federation.attendance.wait_for(len(federation.grid.nodes), 3, 0.2)
    made = averaging.build(config.privacy, list(BASE))
    weights = averaging.run(
        grid, made, order, torch.zeros(NUMBERS), lambda *_: None, federation.folder
    )
    assert bool(torch.isfinite(weights).all())
    averaging.test(grid, order, weights)
    return {
        event.site: event.score
        for event in federation.events
        if isinstance(event, Answered) and event.phase == "evaluate.test" and event.site in HONEST
        if event.score is not None
    }


@cache
def undisturbed(strategy: str, folder: Path) -> dict[str, float]:
    return average(Federation(folder), strategy)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    scores = undisturbed(ROBUST, tmp_path_factory.mktemp("calm"))
    assert set(scores) == set(HONEST) and min(scores.values()) > 0.8
    return scores


@pytest.mark.parametrize("attack", [*GREETING, *TRAINING, *SCORING], ids=str)
def test_a_liar_is_named_and_changes_no_honest_figure(
    tmp_path: Path, calm: dict[str, float], attack: Attack
) -> None:
    federation = Federation(tmp_path, attack)
    silent = attack.name in ("silence", "an answer to another question")
    scores = average(federation, ROBUST, round_timeout_s=0.3 if silent else 10.0)

    assert scores == {site: pytest.approx(calm[site], abs=CLOSE) for site in HONEST}
    assert federation.blamed() == ({LIAR} if attack.named else set())
    assert bool(federation.told()) == (attack.named or attack.unusual)


@pytest.mark.parametrize("strategy", ["averaging/fedmedian", "averaging/krum"])
@pytest.mark.parametrize(
    "attack", [each for each in TRAINING if each.name in ("the sign turned", "noise")], ids=str
)
def test_other_robust_strategies_bear_it_too(tmp_path: Path, strategy: str, attack: Attack) -> None:
    calm = undisturbed(strategy, tmp_path / "calm")
    scores = average(Federation(tmp_path / "lied to", attack), strategy)

    assert scores == {site: pytest.approx(calm[site], abs=CLOSE) for site in HONEST}


@pytest.mark.parametrize("ratio", [10.0, 0.0])
def test_a_plain_average_weighs_by_greeted_cases_within_a_limit(
    tmp_path: Path, ratio: float
) -> None:
    federation = Federation(tmp_path, Attack("", "train", measured(num_examples=10**6)))
    federation.liar.cases = 10**6
    average(federation, "averaging/fedavg", max_examples_ratio=ratio)
    notes = notes_of(federation, " counts as ")
    assert [text.split()[0] for text in notes] == ([LIAR] if ratio else [])
    assert all(" 40 training cases" in text for text in notes)  # ten times the others' 4


def test_examples_count_no_more_than_was_greeted(tmp_path: Path) -> None:
    federation = Federation(tmp_path, Attack("", "train", measured(num_examples=10**6)))
    average(federation, "averaging/fedavg")
    notes = notes_of(federation, " counts as ")
    assert len(notes) == 1 and " 4 training cases" in notes[0]


def notes_of(federation: Federation, words: str) -> list[str]:
    notes = [event.text for event in federation.events if isinstance(event, Note)]
    return [text for text in notes if words in text]


def test_an_update_may_be_long_where_no_limit_is_set(tmp_path: Path) -> None:
    attack = Attack("", "train", updated(lambda w, h: w + 12 * (h - w)))
    strict, open_ = Federation(tmp_path / "a", attack), Federation(tmp_path / "b", attack)
    average(strict, ROBUST)
    average(open_, ROBUST, max_update_ratio=0.0)
    assert (strict.blamed(), open_.blamed()) == ({LIAR}, set())


def test_what_steers_a_terminal_reaches_nobody(tmp_path: Path) -> None:
    attack = Attack("", "query.hello", greeted(modality="\x1b[2J", version="\x07"))
    federation = Federation(tmp_path, attack)
    average(federation, ROBUST)
    (joined,) = [e for e in federation.events if isinstance(e, Joined) and e.site == LIAR]
    assert joined.modality.isprintable() and joined.version.isprintable()
    described = federation.attendance.describe()[LIAR]
    assert str(described["modality"]).isprintable()


def test_the_report_says_who_is_missing_and_why(tmp_path: Path) -> None:
    federation = Federation(tmp_path, Attack("", "train", answer_with(lambda _: {})))
    folder = RunFolder(tmp_path)
    folder.update(state="running", arms=[{"name": "arm", "title": "arm"}], rounds=3)
    federation.note = folder.record  # type: ignore[method-assign]
    average(federation, ROBUST)
    absences = find_absences(read_results(tmp_path))
    assert {absence.site for absence in absences} == {LIAR}
    assert absences[0].rounds == (1, 2, 3) and "metrics" in absences[0].reason


def test_twenty_rounds_in_which_every_hospital_fails_once_end_and_say_who_missed_which(
    tmp_path: Path,
) -> None:
    rounds = 20
    misses = dict(zip((2, 5, 9, 13, 20), HONEST, strict=True))
    federation = Federation(tmp_path)
    folder = RunFolder(tmp_path)
    folder.update(state="running", arms=[{"name": "arm", "title": "arm"}], rounds=rounds)
    federation.note = folder.record  # type: ignore[method-assign]
    folder.listeners.append(federation.events.append)
    folder.record(ArmStart(arm="arm", title="arm", rounds=rounds, offset=0))
    for number, node in zip(misses, federation.grid.nodes.values(), strict=True):
        node.answer = fails_in(number, node.answer)
    scores = average(federation, "averaging/fedavg", replace(ORDER, rounds=rounds))
    folder.update(hospitals=federation.attendance.describe())

    assert set(scores) == set(HONEST) and min(scores.values()) > 0.8
    results = read_results(tmp_path)
    states = list_rounds(results, results.arms[0])
    assert {
        number: site
        for site, row in states.items()
        for number, state in enumerate(row, 1)
        if state == "missing"
    } == misses
    assert {state for row in states.values() for state in row} == {"trained", "missing"}
    absences = find_absences(results)
    assert {(absence.site, absence.rounds) for absence in absences} == {
        (site, (number,)) for number, site in misses.items()
    }
    assert all(f"tripped in {absence.rounds[0]}" in absence.reason for absence in absences)


def fails_in(number: int, answer: Answer) -> Answer:
    def tripping(message: Message) -> Message | None:
        if message.metadata.message_type == "train" and round_of(message) == number:
            return make_error(message, f"it tripped in {number}")
        return answer(message)

    return tripping
