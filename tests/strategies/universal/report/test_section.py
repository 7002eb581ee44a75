"""The universal model's part of a report, from folders whose figures can be followed by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from polyclinic.errors import RunError
from polyclinic.reporting.results import read_results
from polyclinic_server.reports.page import render, terminal_table, write_report
from polyclinic_server.runs.live_table import Board
from polyclinic_strategies.refinement.report.narrative import show_bytes
from polyclinic_strategies.universal.report.section import describe_universal

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


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    record = {
        "combine": "distillation",
        "planned": 2,
        "public_images": 24,
        "stages": [stage(1, "a"), stage(2, "a", "b")],
    }
    run = {
        "name": "run", "state": "finished", "rounds": 5, "task": "own", "score_name": "score", "labels": [],
        "arms": [{"name": name, "title": title, "kind": "universal"} for name, title in ARMS.items()],
        "hospitals": {site: {"modality": "photo", "training": 12, "validation": 4, "test": 4, "task": TASKS[site]} for site in SCORES},
        "universal": {**record, **changes},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    rows = [
        (arm, site, score)
        for site, pair in SCORES.items()
        for arm, score in zip(("before", "universal"), pair, strict=True)
    ]
    lines = [
        {"arm": arm, "round": 1, "phase": "test", "site": site, "num_examples": 4, "score": score}
        for arm, site, score in rows
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "events.jsonl").write_text("")
    return folder


def test_every_stage_names_its_teachers_with_scores_before_and_after(tmp_path: Path) -> None:
    section = describe_universal(read_results(write(tmp_path / "run")))
    assert section is not None
    assert [[row.taught.site for row in each.rows] for each in section.stages] == [
        ["a"],
        ["a", "b"],
    ]
    row = section.stages[1].rows[0]
    assert (row.taught.task, row.taught.weight, row.taught.trust, row.before, row.after) == (
        TASKS["a"],
        0.5,
        0.25,
        0.5,
        0.8,
    )
    assert row.difference == pytest.approx(0.3)
    assert section.stages[0].words.startswith("1 hospital contributed in ")


def test_the_result_is_told_in_proportion(tmp_path: Path) -> None:
    section = describe_universal(read_results(write(tmp_path / "run")))
    assert section is not None
    assert (
        "helped in this run (+0.050)" in section.lead
        and "0.750, against 0.700" in section.lead
        and "1 of 2" in section.lead
    )
    assert "It did worse at b (\N{MINUS SIGN}0.200)." in section.support


def test_the_loss_is_drawn_over_the_steps(tmp_path: Path) -> None:
    section = describe_universal(read_results(write(tmp_path / "run")))
    assert section is not None and section.losses is not None
    assert [line.title for line in section.losses.lines] == ["stage 1", "stage 2"]
    assert len(section.losses.lines[0].mean.split()) == 3


def test_the_page_shows_tasks_stages_and_arms(tmp_path: Path) -> None:
    page = render(read_results(write(tmp_path / "run")))
    for words in (
        "Universal model, stage by stage",
        TASKS["a"],
        TASKS["b"],
        "Trust",
        show_bytes(30_000),
        "24 unlabelled images",
        "Tasks of their own",
    ):
        assert words in page
    assert "trained alone" not in page


def test_encoders_that_were_merged_have_no_trust_and_no_loss(tmp_path: Path) -> None:
    merged = {"combine": "mean", "stages": [stage(1, "a", "b", seconds=0.1)], "planned": 1}
    page = render(read_results(write(tmp_path / "run", **merged)))
    assert (
        "by the rule mean" in page
        and "Trust" not in page
        and "Loss of the distillation" not in page
    )


def test_a_run_that_is_still_going_on_says_what_is_done(tmp_path: Path) -> None:
    unfinished = {
        key: value
        for key, value in stage(2, "b").items()
        if key in ("stage", "base", "waited_s", "contributions")
    }
    page = render(read_results(write(tmp_path / "run", stages=[stage(1, "a"), unfinished])))
    assert "1 of 2 stages are done" in page and "no encoder has come of it yet" in page
    empty = render(read_results(write(tmp_path / "run", stages=[stage(1, "a"), stage(2)])))
    assert "Nobody contributed" in empty and "of 2 stages are done" not in empty
    assert "No stage is over yet" in render(read_results(write(tmp_path / "run", stages=[])))


def test_what_came_from_hospitals_is_escaped_and_damage_is_named(tmp_path: Path) -> None:
    bad = {**contribution("a"), "task": "<script>alert(1)</script>"}
    folder = write(tmp_path / "run", stages=[{**stage(1, "a"), "contributions": [bad]}])
    assert "<script>" not in write_report(folder).read_text()
    with pytest.raises(RunError, match="damaged"):
        read_results(write(tmp_path / "run", stages=[{"stage": 1}]))


def test_the_terminal_shows_both_encoders(tmp_path: Path) -> None:
    columns = terminal_table(read_results(write(tmp_path / "run"))).columns
    assert [str(column.header) for column in columns] == ["hospital", "Before", "Universal model"]


def test_the_board_counts_anew_in_every_stage() -> None:
    board = Board({"universal": "Universal model"}, 5, "score", merging=("universal",), expected=2)
    board.handle(
        {
            "kind": "arm_start",
            "arm": "universal",
            "title": "Universal model",
            "rounds": 1,
            "offset": 0,
            "expected": 2,
        }
    )
    said = [board.handle({"kind": "stage", "number": 1, "of": 2, "sites": []})]
    shares = [board.share]
    for number in (1, 2):
        for site in ("a", "b"):
            board.handle({"kind": "contribution", "site": site, "num_examples": 12})
        shares.append(board.share)
        if number == 1:
            said.append(board.handle({"kind": "stage", "number": 2, "of": 2, "sites": []}))
            shares.append(board.share)
    assert said == [
        "stage 1 of 2: 0 of 2 hospitals have contributed",
        "stage 2 of 2: 0 of 2 hospitals have contributed",
    ]
    assert shares == sorted(shares) and shares[0] == 0 and shares[1] == shares[2]
