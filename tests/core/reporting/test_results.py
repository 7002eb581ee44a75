import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from polyclinic.errors import RunError
from polyclinic.federation.events import Left, RoundEnd
from polyclinic.reporting.curves import curves, draw_curves
from polyclinic.reporting.results import read_results
from polyclinic.reporting.scores import by_label, headline

ARMS = [{"name": name, "title": name} for name in ("local", "fedavg", "fedbn", "pooled")]
TEST_SCORES = {
    "local": (0.6, 0.5),
    "fedavg": (0.7, 0.44),
    "fedbn": (0.65, 0.6),
    "pooled": (0.8, 0.7),
}


def line(arm: str, site: str, phase: str = "test", round_: int = 2, **rest: Any) -> dict[str, Any]:
    return {"time": 1.0, "arm": arm, "round": round_, "phase": phase, "site": site, **rest}


def write_run(folder: Path, lines: list[dict[str, Any]], **changes: Any) -> Path:
    run = {
        "name": "two hospitals",
        "started": "2025-03-04T09:00:00+00:00",
        "finished": None,
        "state": "running",
        "reason": None,
        "versions": {"polyclinic": "0.1.0"},
        "seed": 0,
        "rounds": 2,
        "arms": ARMS,
        "task": "segmentation",
        "score_name": "Dice",
        "labels": ["background", "CSF", "white matter"],
        "hospitals": {
            site: {"modality": "T1", "training": 4, "validation": 1, "test": 2} for site in "ab"
        },
    }
    (folder / "run.json").write_text(json.dumps(run | changes))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return folder


def lines_of_all_arms() -> list[dict[str, Any]]:
    return [
        line(arm, site, score=score, scores={"white matter": score + 0.1, "CSF": score - 0.1})
        for arm, pair in TEST_SCORES.items()
        for site, score in zip("ab", pair, strict=True)
    ]


def test_headline_is_as_computed_by_hand(tmp_path: Path) -> None:
    table = headline(read_results(write_run(tmp_path, lines_of_all_arms())))
    assert table.source == "test"
    assert [table.mean[arm].score for arm in TEST_SCORES] == pytest.approx(
        [0.55, 0.57, 0.625, 0.75]
    )
    assert table.mean["fedbn"].difference == pytest.approx(0.075)
    assert table.rows["b"]["fedavg"].difference == pytest.approx(-0.06)
    assert table.rows["a"]["local"].difference is None
    best = {
        site: [arm for arm, cell in row.items() if cell.best] for site, row in table.rows.items()
    }
    assert best == {"a": ["fedavg"], "b": ["fedbn"]}, "pooled is higher, but not federated"


def test_labels_come_in_the_declared_order(tmp_path: Path) -> None:
    tables = by_label(read_results(write_run(tmp_path, lines_of_all_arms())))
    assert list(tables) == ["CSF", "white matter"]
    assert tables["CSF"].rows["a"]["pooled"].score == pytest.approx(0.7)
    assert tables["white matter"].mean["local"].score == pytest.approx(0.65)


def test_means_compare_the_same_hospitals_in_every_arm(tmp_path: Path) -> None:
    lines = [
        entry for entry in lines_of_all_arms() if (entry["arm"], entry["site"]) != ("fedavg", "b")
    ]
    table = headline(read_results(write_run(tmp_path, lines)))
    assert table.averaged == ("a",)
    assert table.mean["local"].score == pytest.approx(0.6)
    assert table.rows["b"]["fedavg"].score is None


def test_without_tests_the_last_validation_counts(tmp_path: Path) -> None:
    lines = [
        line("fedavg", "a", "validate", n, score=s, scores={})
        for n, s in ((1, 0.9), (3, 0.5), (2, 0.7))
    ]
    results = read_results(write_run(tmp_path, lines))
    assert headline(results).source == "validate"
    assert headline(results).rows["a"]["fedavg"].score == 0.5
    assert results.rounds == 3


def test_a_half_written_line_is_counted_and_passed_over(tmp_path: Path) -> None:
    run = write_run(tmp_path, lines_of_all_arms())
    with (run / "metrics.jsonl").open("a") as file:
        file.write('[]\n{"arm":"fedavg"}\n{"arm":"fedavg","round":5,"phase":"te')
    results = read_results(run)
    assert len(results.metrics) == 8
    assert results.skipped_lines == 3


def test_the_later_of_two_equal_lines_counts(tmp_path: Path) -> None:
    lines = [
        line("fedavg", "a", "train", missing="offline"),
        line("fedavg", "a", "train", loss=0.5),
    ]
    results = read_results(write_run(tmp_path, lines))
    assert [metric.loss for metric in results.metrics] == [0.5]


def test_nan_is_no_score(tmp_path: Path) -> None:
    run = write_run(
        tmp_path,
        [line("fedavg", "a", score=float("nan"), scores={"CSF": 0.4, "white matter": 0.6})],
    )
    assert read_results(run).metrics[0].score == pytest.approx(0.5)


def test_a_hospital_that_came_later_is_listed_and_the_pool_is_no_hospital(tmp_path: Path) -> None:
    lines = [
        line("pooled", "everything", "train", loss=0.3),
        line("fedavg", "c", "train", missing="offline"),
    ]
    assert [hospital.name for hospital in read_results(write_run(tmp_path, lines)).hospitals] == [
        "a",
        "b",
        "c",
    ]


def test_control_characters_do_not_survive(tmp_path: Path) -> None:
    run = write_run(tmp_path, [], hospitals={"\x1b[31mred": {}})
    assert "\x1b" not in read_results(run).hospitals[0].name


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no run.json"),
        ("{", "cannot be read"),
        ("[]", "an object was expected"),
        ('{"state": "failed"}', "'arms' is missing"),
        ('{"state": "failed", "arms": 3}', "'arms': a list was expected"),
        ('{"state": "failed", "arms": [{}]}', "'arms.0.name' is missing"),
        ('{"state": "failed", "arms": [], "hospitals": {"a": 7}}', "'hospitals.a': an object"),
    ],
)
def test_what_is_no_run_is_named(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=problem):
        read_results(tmp_path)


def test_what_is_null_or_absent_has_a_default(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("name", "seed", "labels", "score_name", "versions", "hospitals"))
    results = read_results(write_run(tmp_path, [], **nothing))
    assert (results.run.name, results.run.score_name) == (tmp_path.name, "score")
    assert (results.run.seed, results.run.labels, results.hospitals) == (None, (), ())
    assert (results.events, results.config) == ((), "")


def test_a_part_that_is_damaged_is_named(tmp_path: Path) -> None:
    class Part(BaseModel):
        sizes: tuple[int, ...]

    results = read_results(write_run(tmp_path, [], extra={"sizes": ["many"]}, other={}))
    assert results.part("absent", Part) is None
    assert results.part("other", Part) is None
    with pytest.raises(RunError, match=r"run\.json: is damaged \('extra.sizes.0'"):
        results.part("extra", Part)


def test_damaged_events_are_skipped_and_others_are_in_the_order_of_time(tmp_path: Path) -> None:
    run = write_run(tmp_path, [])
    lines = [
        '{"time":3,"arm":"fedavg","kind":"round_end","round":1}',
        '{"time":1,"arm":"fedavg","kind":"left","site":"\x1ba"}'.replace("\x1b", "\\u001b"),
        "[]",
        '{"kind":"left","site":"a"}',
        '{"time":NaN,"kind":"left","site":"a"}',
        '{"time":2,"kind":"from another version"}',
        '{"time":2,"kind":"left","si',
    ]
    (run / "events.jsonl").write_text("\n".join(lines))
    left, ended = read_results(run).events
    assert isinstance(left, Left) and isinstance(ended, RoundEnd)
    assert left.site == "\N{REPLACEMENT CHARACTER}a"


def test_curves_average_over_those_that_reported(tmp_path: Path) -> None:
    lines = [line("fedavg", "a", "validate", n, score=0.2 * n) for n in (1, 2)]
    lines += [line("fedavg", "b", "validate", 2, score=0.6)]
    results = read_results(write_run(tmp_path, lines))
    (curve,) = curves(results, "validate", "score")
    assert curve.mean == ((1, pytest.approx(0.2)), (2, pytest.approx(0.5)))
    assert curve.partial == {1}
    chart = draw_curves("Dice", [curve], results.arms)
    assert chart is not None
    assert [dot.partial for dot in chart.lines[0].dots] == [True, False]
    assert draw_curves("Dice", [], results.arms) is None
