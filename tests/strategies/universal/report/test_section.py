"""The universal model's part of a report, from folders whose figures can be followed by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from polyclinic.errors import RunError
from polyclinic.federation.events import by_kind, installed_events
from polyclinic.federation.live_state import LiveState
from polyclinic.reporting.formats import show_bytes
from polyclinic.reporting.narrative import tell_verdict
from polyclinic.reporting.results import Results, read_results
from polyclinic.reporting.section import Section
from polyclinic.reporting.tables import terminal_table
from polyclinic_server.reports.page import write_report
from polyclinic_server.runs.live_table import LiveTable
from polyclinic_strategies.universal.report.section import make_section
from tests.pages import MINUS, Page, figures

KINDS = by_kind(installed_events())
ARMS = {"before": "Before", "universal": "Universal model"}
SCORES = {"a": (0.5, 0.8), "b": (0.9, 0.7)}
TASKS = {
    "a": "segmentation, 2 classes, 1 channel, 2-D",
    "b": "classification, 3 classes, 3 channels, 2-D",
}


def contribution(site: str) -> dict[str, Any]:
    return {
        "site": site,
        "digest": site * 64,
        "task": TASKS[site],
        "num_examples": 12,
        "sent": 40_000,
        "received": 30_000,
    }


def stage(number: int, *sites: str, **result: Any) -> dict[str, Any]:
    taught = {
        "weights": dict.fromkeys(sites, 0.5),
        "trust": dict.fromkeys(sites, 0.25),
        "losses": [2.0, 1.5, 1.0],
        "steps": 3,
        "seconds": 4.0,
    }
    made = result or taught
    return {
        "stage": number,
        "base": "0" * 64,
        "waited_s": 61.0,
        "contributions": [contribution(site) for site in sites],
        **made,
    }


def gathered(number: int, *sites: str) -> dict[str, Any]:
    """Return a stage that no encoder has come of yet."""
    keys = ("stage", "base", "waited_s", "contributions")
    return {key: value for key, value in stage(number, *sites).items() if key in keys}


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    record = {
        "combine": "distillation",
        "planned": 2,
        "public_images": 24,
        "stages": [stage(1, "a"), stage(2, "a", "b")],
    }
    hospital = {"modality": "photo", "training": 12, "validation": 4, "test": 4}
    run = {
        "name": "run",
        "state": "finished",
        "rounds": 5,
        "task": "own",
        "score_name": "score",
        "labels": [],
        "arms": [{"name": n, "title": title, "kind": "universal"} for n, title in ARMS.items()],
        "hospitals": {site: {**hospital, "task": TASKS[site]} for site in SCORES},
        "universal": {**record, **changes},
    }
    (folder / "run.json").write_text(json.dumps(run))
    lines = [
        {"arm": arm, "round": 1, "phase": "test", "site": site, "num_examples": 4, "score": score}
        for site, pair in SCORES.items()
        for arm, score in zip(("before", "universal"), pair, strict=True)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "events.jsonl").write_text("")
    return folder


def read(folder: Path, **changes: Any) -> Results:
    return read_results(write(folder / "run", **changes))


def section(results: Results) -> Section:
    made = make_section(results)
    assert made is not None
    return made


def page(folder: Path, **changes: Any) -> Page:
    return Page(write_report(write(folder / "run", **changes)))


def test_every_stage_names_its_teachers_with_scores_before_and_after(tmp_path: Path) -> None:
    first, second = section(read(tmp_path)).values["stages"]
    assert [row.taught.site for row in first.rows] == ["a"]
    assert [row.taught.site for row in second.rows] == ["a", "b"]
    row = second.rows[0]
    assert (row.taught.task, row.weight, row.trust) == (TASKS["a"], 0.5, 0.25)
    assert (row.before, row.after) == (0.5, 0.8)
    assert row.difference == pytest.approx(0.3)
    assert figures(first.words) == ["1", "1", "1", "4.0"], "hospitals, 1 min 1 s, and seconds"


def test_the_encoder_before_is_a_reference_and_there_are_no_rounds(tmp_path: Path) -> None:
    before, universal = read(tmp_path).arms
    assert (before.federated, universal.federated) == (False, True)
    assert not before.has_rounds and not universal.has_rounds
    found = Page(write_report(tmp_path / "run"))
    assert "stages" in found.ids and found.count("a", href="#stages") == 1
    assert found.all(".rounds") == [] and "rounds" not in found.one(".facts")


def test_the_result_is_told_in_proportion(tmp_path: Path) -> None:
    summary = section(read(tmp_path)).summary
    assert summary is not None
    assert tell_verdict(0.05) in summary.lead
    assert figures(summary.lead) == ["+0.050", "2", "0.750", "0.700", "1", "2"]
    assert f"b ({MINUS}0.200)" in summary.support and "a (" not in summary.support
    assert [value for value, _ in summary.tiles] == ["2", "1 of 2"]
    assert page(tmp_path).one(".lead") == summary.lead


def test_the_loss_is_drawn_over_the_steps(tmp_path: Path) -> None:
    losses = section(read(tmp_path)).values["losses"]
    assert [line.title for line in losses.lines] == ["stage 1", "stage 2"]
    assert len(losses.lines[0].path.split()) == 3
    assert losses.x_ticks[0][1] == "0" and losses.x_ticks[-1][1] == "3"


def test_the_page_shows_tasks_stages_and_arms(tmp_path: Path) -> None:
    found = page(tmp_path)
    first = next(row for row in found.rows if row[0] == "Hospital" and "Trust" in row)
    assert first[:2] == ["Hospital", "Task"] and len(first) == 9
    taught = [row for row in found.rows if row[:2] == ["a", TASKS["a"]]]
    sent, received = show_bytes(40_000), show_bytes(30_000)
    shown = ["a", TASKS["a"], "12", "0.500", "0.250", "0.500", "0.800+0.300", sent, received]
    assert taught == [shown, shown], "in both stages"
    assert found.rows[1][0].startswith(f"a{TASKS['a']}"), "the table of scores"
    assert len(found.all(".stage")) == 2 and len(found.all(".teachers")) == 2
    assert "24" in figures(section(read(tmp_path)).values["how"])


def test_encoders_that_were_merged_have_no_trust_and_no_loss(tmp_path: Path) -> None:
    merged = {"combine": "mean", "stages": [stage(1, "a", "b", seconds=0.1)], "planned": 1}
    found = page(tmp_path, **merged)
    assert not any("Trust" in row for row in found.rows)
    assert found.all("figure") == []
    values = section(read(tmp_path, **merged)).values
    assert "rule mean" in values["how"] and values["losses"] is None


def test_a_run_that_has_not_ended_says_what_is_done(tmp_path: Path) -> None:
    half = section(read(tmp_path, stages=[stage(1, "a"), gathered(2, "b")]))
    assert half.summary is not None and "1 of 2 stages" in half.summary.support
    words = [table.words for table in half.values["stages"]]
    assert figures(words[1]) == ["1", "1", "1"], "it took no time to make an encoder yet"
    empty = section(read(tmp_path, stages=[stage(1, "a"), stage(2)]))
    assert empty.summary is not None and "of 2 stages" not in empty.summary.support
    assert empty.values["stages"][1].rows == ()
    none = page(tmp_path, stages=[])
    assert "stages" in none.ids and none.all(".stage") == []


def test_what_came_from_hospitals_is_escaped(tmp_path: Path) -> None:
    bad = {**contribution("a"), "task": "<script>alert(1)</script>"}
    found = page(tmp_path, stages=[{**stage(1, "a"), "contributions": [bad]}])
    assert found.is_inert() and "<script>alert(1)</script>" in found.text


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stages": [{"stage": 1}]}, "'universal.stages.0.contributions' is missing"),
        ({"planned": "many"}, "'universal.planned'"),
        ({"stages": 3}, "'universal.stages': a list was expected"),
    ],
)
def test_damage_is_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(RunError, match=problem):
        write_report(write(tmp_path / "run", **changes))


def test_a_figure_of_the_wrong_kind_costs_no_report(tmp_path: Path) -> None:
    odd = {**stage(1, "a"), "losses": [1.0, None, "low"], "trust": {"a": "much"}, "waited_s": None}
    values = section(read(tmp_path, stages=[odd])).values
    (table,) = values["stages"]
    assert (table.rows[0].trust, table.rows[0].weight) == (None, 0.5)
    assert len(values["losses"].lines[0].path.split()) == 1


def test_other_runs_have_no_such_section(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "universal": None}))
    assert make_section(read_results(folder)) is None


def test_the_terminal_shows_both_encoders(tmp_path: Path) -> None:
    columns = terminal_table(read(tmp_path)).columns
    assert [str(column.header) for column in columns] == ["hospital", "Before", "Universal model"]


def test_the_live_table_counts_anew_in_every_stage() -> None:
    without = frozenset({"universal"})
    state = LiveState({"universal": "Universal model"}, 5, "score", without, expected=2)
    table = LiveTable(state)

    def take(event: dict[str, Any]) -> str | None:
        return table.handle(KINDS[event["kind"]].model_validate(event))

    take({"kind": "arm_start", "arm": "universal", "rounds": 1, "offset": 0, "expected": 2})
    said = [take({"kind": "stage", "number": 1, "of": 2, "sites": []})]
    shares = [state.share]
    for number in (1, 2):
        for site in ("a", "b"):
            take({"kind": "contribution", "site": site, "num_examples": 12})
        shares.append(state.share)
        if number == 1:
            said.append(take({"kind": "stage", "number": 2, "of": 2, "sites": []}))
            shares.append(state.share)
    assert [figures(line or "") for line in said] == [["1", "2", "0", "2"], ["2", "2", "0", "2"]]
    assert shares == sorted(shares) and shares[0] == 0 and shares[1] == shares[2]
