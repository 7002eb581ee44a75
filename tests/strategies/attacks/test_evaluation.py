"""A hospital that lies where models are evaluated is named; the others' figures stand."""

from pathlib import Path

import pytest
import torch

from polyclinic.config.compose import load_config
from polyclinic.federation.final_test import FinalTest
from polyclinic.federation.run_folder import RunFolder
from polyclinic.reporting.measured.standing import find_standings
from polyclinic.reporting.measured.tables import measure_tables
from polyclinic.reporting.results import read_results
from polyclinic_server.reports.missing import find_missing
from tests.strategies.attacks.in_rounds import SCORING
from tests.strategies.attacks.twins import AIM, HONEST, LIAR, ORDER, Attack, Federation

LABELS = ["background", "tumour"]


def evaluate(folder: Path, attack: Attack | None) -> RunFolder:
    federation = Federation(folder, attack)
    run = RunFolder(folder / "run")
    run.path.mkdir(parents=True)
    run.update(state="running", arms=[{"name": ORDER.arm, "title": "model"}], labels=LABELS)
    run.listeners.append(federation.events.append)
    federation.attendance._on_event = run.record
    deployment = load_config([]).deployment
    federation.attendance.wait_for(len(federation.grid.nodes), 1, 0.2)
    weights = torch.as_tensor(AIM)
    FinalTest(run, federation.grid, federation.attendance, deployment).run(ORDER, lambda _: weights)
    run.update(hospitals=federation.attendance.describe())
    return run


@pytest.mark.parametrize("attack", [each for each in SCORING if each.named], ids=str)
def test_a_liar_is_named_and_left_out(tmp_path: Path, attack: Attack) -> None:
    calm = read_results(evaluate(tmp_path / "calm", None).path)
    lied = read_results(evaluate(tmp_path / "lied", attack).path)

    assert any(LIAR in sentence for sentence in find_missing(lied))
    (quiet,), (found,) = measure_tables(calm), measure_tables(lied)
    assert found.tables == quiet.tables and set(found.tables[0].rows) == set(HONEST)
    (before,), (after,) = find_standings(calm), find_standings(lied)
    assert (before.worst, before.gap, before.mean) == (after.worst, after.gap, after.mean)


def test_a_false_but_sound_answer_is_shown_beside_the_others(tmp_path: Path) -> None:
    (attack,) = (each for each in SCORING if each.name == "a perfect score")
    results = read_results(evaluate(tmp_path, attack).path)
    (standing,) = find_standings(results)
    assert standing.best == LIAR and standing.worst in HONEST
    (found,) = measure_tables(results)
    assert LIAR not in found.tables[0].rows  # it told no measures
