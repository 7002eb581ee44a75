import json
from pathlib import Path
from typing import Any

import pytest

from polyclinic.federation.events import ArmStart, Missing
from polyclinic.federation.metrics import Metric, parse_metric, read_metrics
from polyclinic.federation.run_folder import RunFolder


def line(**changes: Any) -> str:
    given = {"arm": "fedavg", "round": 2, "phase": "test", "site": "a", "score": 0.5}
    return json.dumps({**given, **changes})


def test_a_line_is_read_as_it_was_written() -> None:
    metric = Metric(
        time=1.5, arm="fedavg", round=2, phase="test", site="a", num_examples=4, score=0.5,
        scores={"CSF": 0.4}, seconds=3.0,
    )  # fmt: skip
    assert parse_metric(json.dumps(metric.to_line())) == metric
    assert "loss" not in metric.to_line(), "what was not measured is not written"


def test_a_run_writes_what_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.record(ArmStart(arm="fedavg"))
    folder.record(Missing(site="a", phase="evaluate.test", round=3, reason="offline"))
    folder.record(Missing(site="a", phase="query", round=3, reason="no figure"))
    folder.add_metrics({"arm": "pooled", "round": 3, "phase": "test", "site": "a", "score": 0.5})
    (missing, added), skipped = read_metrics(tmp_path / "metrics.jsonl")
    assert (missing.arm, missing.phase, missing.round) == ("fedavg", "test", 3)
    assert (missing.missing, missing.score) == ("offline", None)
    assert (added.arm, added.score, skipped) == ("pooled", 0.5, 0)
    assert missing.time is not None and added.time is not None


def test_a_figure_that_does_not_exist_is_null() -> None:
    metric = Metric(arm="a", round=1, phase="train", site="b", loss=float("nan"))
    assert metric.to_line()["loss"] is None


@pytest.mark.parametrize(
    "text",
    ["", "7", "[]", "{", line(phase="query"), line(round="2"), line(round=None), '{"arm":"a"}',
     "[" * 100_000],
)  # fmt: skip
def test_a_damaged_line_is_none(text: str) -> None:
    assert parse_metric(text) is None


def test_a_figure_beyond_all_numbers_costs_itself_alone() -> None:
    found = parse_metric(line(score=10**400, loss=0.5))
    assert found is not None and (found.score, found.loss) == (None, 0.5)


def test_a_value_of_the_wrong_kind_costs_no_line() -> None:
    metric = parse_metric(
        line(loss="high", score=True, num_examples=2.5, scores={"CSF": "?", "GM": 0.4}, missing="")
    )
    assert metric is not None
    assert (metric.loss, metric.score, metric.num_examples) == (None, 1.0, None)
    assert (metric.scores, metric.missing) == ({"GM": 0.4}, None)
    metric = parse_metric(line(scores=3, site="\x1b[31mred"))
    assert metric is not None and metric.scores == {} and "\x1b" not in metric.site


def test_later_lines_count_and_a_missing_score_is_the_mean_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        line(score=0.1),
        line(score=0.2),
        line(site="b", score=float("nan"), scores={"CSF": 0.4, "GM": 0.6}),
        "{",
    ]
    path.write_text("\n".join(lines) + "\n\n")
    metrics, skipped = read_metrics(path)
    assert [(metric.site, metric.score) for metric in metrics] == [("a", 0.2), ("b", 0.5)]
    assert skipped == 1
    assert read_metrics(tmp_path / "none") == ((), 0)
