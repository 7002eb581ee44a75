"""The worst hospital and the gap, and measures by class, from a run's folder."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from polyclinic.learning.measures.bootstrap import ratio
from polyclinic.reporting.measured.standing import find_standings
from polyclinic.reporting.measured.tables import measure_tables
from polyclinic.reporting.measured.terminal import standing_table
from polyclinic.reporting.results import Results, read_results
from polyclinic_server.reports.page import write_report
from tests.pages import DASH, Page

SCORES = {"a": [0.9, 0.8, 0.7], "b": [0.4] * 12, "c": [0.6] * 11}


def told(values: list[float]) -> dict[str, Any]:
    count = len(values)
    found = ratio(values, [1.0] * count, list(range(count)), n=count, positives=count, least=count)
    assert found is not None
    return {"": {"mean_dice": found.model_dump()}, "tumour": {"dice": found.model_dump()}}


def write_run(folder: Path, *, measures: bool = True, **more: Any) -> Results:
    run = {
        "state": "finished",
        "arms": [{"name": "fedavg", "title": "FedAvg"}, {"name": "local", "title": "local"}],
        "score_name": "Dice",
        "labels": ["background", "tumour"],
        "hospitals": {site: {"test": len(values)} for site, values in SCORES.items()},
    }
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run))
    lines = []
    for arm, factor in (("fedavg", 1.0), ("local", 0.5)):
        for site, values in SCORES.items():
            scaled = [factor * value for value in values]
            mean = sum(scaled) / len(scaled)
            line = {"arm": arm, "round": 1, "phase": "test", "site": site, "score": mean}
            line |= {"num_examples": len(values)}
            line |= {"measures": told(scaled)} if measures and arm == "fedavg" else {}
            lines.append(json.dumps({**line, **more}))
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return read_results(folder)


def test_the_worst_hospital_by_hand(tmp_path: Path) -> None:
    fedavg, local = find_standings(write_run(tmp_path))
    assert (fedavg.worst, fedavg.best, fedavg.cases) == ("b", "a", 12)
    assert (fedavg.score, fedavg.gap) == (pytest.approx(0.4), pytest.approx(0.4))
    assert fedavg.mean == pytest.approx((0.8 + 0.4 + 0.6) / 3)
    assert fedavg.figure is not None and fedavg.figure.n == 12 and not fedavg.figure.descriptive
    assert local.figure is None and local.gap == pytest.approx(0.2)


def test_hospitals_of_a_class_come_worst_first_and_pooled_last(tmp_path: Path) -> None:
    (found,) = measure_tables(write_run(tmp_path))
    whole, tumour = found.tables
    assert (whole.label, tumour.label) == ("all classes", "tumour")
    assert list(tumour.rows) == ["b", "c", "a"]
    everybody = [value for values in SCORES.values() for value in values]
    assert tumour.pooled["dice"].value == pytest.approx(sum(everybody) / len(everybody), abs=1e-9)


def test_the_page_and_the_terminal_say_where_figures_only_describe(tmp_path: Path) -> None:
    results = write_run(tmp_path)
    page = Page(write_report(tmp_path))
    assert page.is_inert()
    assert page.standing[1][:2] == ["FedAvg", "b"] and page.standing[1][2].startswith("0.400")
    assert page.rows[0][0] == "Hospital"
    text = {row[0]: row[1] for row in page.rows if len(row) == 2 and row[0] in SCORES}
    assert "descriptive" in text["a"] and "descriptive" not in text["b"]
    table = standing_table(results)
    console = Console(width=100, file=io.StringIO())
    console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0.400" in printed and "0.400*" not in printed


def test_a_run_without_measures_has_scores_alone(tmp_path: Path) -> None:
    results = write_run(tmp_path, measures=False)
    assert standing_table(results) is None and measure_tables(results) == ()
    page = Page(write_report(tmp_path))
    assert page.standing[1][2] == "0.40012 cases" and "measures" not in page.ids


@pytest.mark.parametrize("damaged", [7, {"": 3}, {"x": {"dice": {"value": 1}}}, None, "text"])
def test_damaged_measures_cost_nothing_else(tmp_path: Path, damaged: object) -> None:
    results = write_run(tmp_path, measures=damaged)  # type: ignore[arg-type]
    path = tmp_path / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps({**line, "measures": damaged}) for line in lines))
    again = read_results(tmp_path)
    assert again.skipped_lines == 0 and measure_tables(again) == ()
    assert [each.score for each in find_standings(again)] == [
        each.score for each in find_standings(results)
    ]


def test_a_single_hospital_has_no_gap(tmp_path: Path) -> None:
    write_run(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:1]))
    (standing,) = find_standings(read_results(tmp_path))
    assert standing.gap is None
    assert Page(write_report(tmp_path)).standing[1][3] == DASH
