"""Runs side by side, and how far hospitals are from each other."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

from polyclinic.errors import ConfigError
from polyclinic.reporting.results import find_distances
from polyclinic_server.page.app import draw_distances
from polyclinic_server.page.comparing import MOST_COMPARED, Scores, compare, read_settings
from polyclinic_server.page.curves import draw_together
from polyclinic_server.page.watching import Run, Watch
from tests.server.page.served import begin_run, served

EARLIER = Path(__file__).parents[2] / "compatibility" / "v0.1.0" / "runs"


def make_run(
    runs: Path, name: str, scores: Mapping[str, float], settings: str = "", phase: str = "test"
) -> Path:
    """Write a run that has ended, with one figure for each hospital."""
    folder = begin_run(runs, name)
    folder.end(None)
    lines = [
        {"arm": "fedavg", "round": 5, "phase": phase, "site": site, "score": score}
        for site, score in scores.items()
    ]
    text = "".join(json.dumps(each) + "\n" for each in lines)
    (folder.path / "metrics.jsonl").write_text(text)
    (folder.path / "config.yaml").write_text(settings)
    return folder.path


def runs_of(folder: Path, *names: str) -> list[Run]:
    watch = Watch(folder)
    watch.look()
    return [run for name in names if (run := watch.open(name)) is not None]


def test_means_are_over_the_hospitals_that_all_have(tmp_path: Path) -> None:
    make_run(tmp_path, "one", {"oslo": 0.5, "porto": 0.75, "lyon": 0.1})
    make_run(tmp_path, "two", {"oslo": 0.75, "porto": 0.875})
    found = compare(runs_of(tmp_path, "one", "two"), Scores())
    one, two = found.columns
    assert found.sites == ("lyon", "oslo", "porto")
    assert found.shared == ("oslo", "porto")
    assert (one.mean(found.shared), two.mean(found.shared)) == (0.625, 0.8125)
    assert (one.worst, two.worst) == ("lyon", "oslo")
    assert one.gap == pytest.approx(0.65)
    assert two.gap == pytest.approx(0.125)
    assert two.mean(found.sites) is None  # it has none for lyon
    assert not found.mixed


def test_a_test_and_a_validation_are_not_of_one_kind(tmp_path: Path) -> None:
    make_run(tmp_path, "one", {"oslo": 0.5})
    make_run(tmp_path, "two", {"oslo": 0.5}, phase="validate")
    assert compare(runs_of(tmp_path, "one", "two"), Scores()).mixed


def test_settings_that_differ_are_named_and_no_others(tmp_path: Path) -> None:
    same = "rounds: 3\nmodel: {channels: [2, 4]}\n"
    make_run(tmp_path, "one", {"oslo": 0.5}, same + "training: {lr: 0.1}\n")
    make_run(tmp_path, "two", {"oslo": 0.5}, same + "training: {lr: 0.2, mu: 1}\n")
    found = compare(runs_of(tmp_path, "one", "two"), Scores())
    assert found.settings == (("training.lr", ("0.1", "0.2")), ("training.mu", ("", "1")))
    assert found.more == 0
    make_run(tmp_path, "three", {"oslo": 0.5}, "rounds: [")
    problems = compare(runs_of(tmp_path, "one", "three"), Scores()).problems
    assert len(problems) == 1
    assert problems[0].startswith("three: ")


def test_settings_of_several_strategies_are_all_told() -> None:
    found = read_settings("a: 1\nb: {c: x}\n---\na: 1\nb: {c: y}\nd: 3\n")
    assert found == {"a": "1", "b.c": "x | y", "d": "3"}


@pytest.mark.parametrize("text", ["a: [", "a: &x [1]\nb: *x", "a: 1\na: 2", "a: 2026-13-45"])
def test_what_is_no_list_of_settings_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        read_settings(text)


def test_a_run_that_goes_on_is_read_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path, "one", {"oslo": 0.5})
    begin_run(tmp_path / "active", "one")
    shutil.copy(folder / "metrics.jsonl", tmp_path / "active" / "one")
    (run,) = runs_of(tmp_path / "active", "one")
    scores, now = Scores(), [100.0]
    moments = iter([100.0, 101.0])  # it takes a second to be read
    monkeypatch.setattr(
        "polyclinic_server.page.comparing.time.monotonic", lambda: next(moments, now[0])
    )
    assert scores.of(run)[0].scores == {"oslo": 0.5}
    with (tmp_path / "active" / "one" / "metrics.jsonl").open("a") as file:
        line = {"arm": "fedavg", "round": 5, "phase": "test", "site": "porto", "score": 0.7}
        file.write(json.dumps(line) + "\n")
    now[0] = 149.0
    assert "porto" not in scores.of(run)[0].scores
    now[0] = 151.0
    assert "porto" in scores.of(run)[0].scores


def test_runs_of_every_strategy_are_compared(tmp_path: Path) -> None:
    names = ("fedavg", "merging", "refinement", "universal", "interrupted-fedavg")
    for name in names:
        shutil.copytree(EARLIER / name, tmp_path / name)
    runs = runs_of(tmp_path, *names)
    found = compare(runs, Scores())
    assert found.problems == ()
    assert {each.run for each in found.columns} >= {"fedavg", "merging", "refinement"}
    assert found.settings
    chart = draw_together([run.following for run in runs], "score", "title")
    assert chart is not None
    assert {line.title.partition(":")[0] for line in chart.lines} >= {"fedavg", "merging"}
    assert len({line.colour for line in chart.lines}) > 1


def test_what_cannot_be_compared_is_left_out(tmp_path: Path) -> None:
    for number in range(MOST_COMPARED + 2):
        make_run(tmp_path, f"run-{number}", {"oslo": 0.5})
    with served(tmp_path) as page:
        asked = [f"run-{number}" for number in range(MOST_COMPARED + 2)]
        found = requests.get(
            f"{page.address}compare", {"run": ["../x", "gone", *asked]}, timeout=10
        )
        assert found.status_code == 200
        assert found.text.count(" checked>") == MOST_COMPARED
        alone = requests.get(f"{page.address}compare", {"run": "run-1"}, timeout=10)
        assert "Choose two runs" in alone.text


def test_distances_between_hospitals_are_drawn(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "refinement", tmp_path / "refinement")
    shutil.copytree(EARLIER / "fedavg", tmp_path / "fedavg")
    refined, averaged = runs_of(tmp_path, "refinement", "fedavg")
    assert draw_distances(averaged) == []
    ((measured, drawn),) = draw_distances(refined)
    assert "average image" in measured
    assert drawn is not None
    assert [label.name for label in drawn.rows] == ["mprage-3t", "spgr-1.5t", "st-john"]
    assert [label.name for label in drawn.rows if label.later] == ["st-john"]
    state = refined.following.state
    assert state is not None
    (found,) = find_distances(tmp_path / "refinement", state)
    assert found.sites == ("mprage-3t", "spgr-1.5t", "st-john")


def test_damaged_distances_harm_nothing_else(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EARLIER / "refinement", tmp_path / "refinement"))
    described = json.loads((folder / "run.json").read_text())
    described["refinement"]["distances"] = [[0.0]]
    (folder / "run.json").write_text(json.dumps(described))
    (run,) = runs_of(tmp_path, "refinement")
    assert draw_distances(run) == []
    with served(tmp_path) as page:
        assert requests.get(f"{page.address}runs/refinement", timeout=10).status_code == 200
