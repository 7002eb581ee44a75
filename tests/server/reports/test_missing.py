"""A result without all hospitals says so first, on the page and in the terminal."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from polyclinic.federation.run_folder import RunFolder
from polyclinic.reporting.results import read_results
from polyclinic_server.reports.missing import find_missing
from polyclinic_server.reports.page import render
from polyclinic_server.runs.coordinator import finish
from tests.core.reporting.test_results import line, lines_of_all_arms, write_run


def missing_in(
    folder: Path, *events: dict[str, Any], lines: list[dict[str, Any]] | None = None, **changes: Any
) -> list[str]:
    write_run(folder, lines or [], **changes)
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in events))
    return list(find_missing(read_results(folder)))


def at(kind: str, **rest: Any) -> dict[str, Any]:
    return {"time": 1.0, "arm": rest.pop("arm", ""), "kind": kind, **rest}


@pytest.mark.parametrize(
    ("events", "named"),
    [
        (
            [at("waiting", present=["a"], wanted=4), at("waiting", present=["a", "b"], wanted=4)],
            [("4", "2")],
        ),
        ([at("waiting", present=["a"], wanted=2)], []),
        ([at("refused", site="c", reason="other labels")], [("c", "other labels")]),
        ([at("refused", site="c", reason="once"), at("joined", site="c")], []),
    ],
)
def test_who_was_expected_and_who_was_refused(
    events: list[dict[str, Any]], named: list[tuple[str, str]], tmp_path: Path
) -> None:
    found = missing_in(tmp_path, *events)
    assert len(found) == len(named)
    for sentence, words in zip(found, named, strict=True):
        assert all(word in sentence for word in words)


def test_who_trained_less_and_who_was_not_tested(tmp_path: Path) -> None:
    lines = [
        line("fedavg", "a", "train", 1, loss=0.5),
        line("fedavg", "a", "train", 2, loss=0.4),
        line("fedavg", "b", "train", 1, missing="offline"),
        line("fedavg", "b", "train", 2, loss=0.4),
        line("fedavg", "b", "test", 2, missing="offline"),
        line("local", "b", "train", 1, missing="not federated"),
    ]
    trained, tested = missing_in(tmp_path, lines=lines)
    assert trained.startswith("b trained in 1 of 2 rounds of fedavg")
    assert tested.startswith("b ") and "test" in tested and "fedavg" in tested


def test_who_contributed_nothing_where_others_did(tmp_path: Path) -> None:
    arms = [{"name": "merging-mean", "title": "Merging", "kind": "merging"}]
    events = [at("contribution", arm="merging-mean", site="a")]
    (found,) = missing_in(tmp_path, *events, arms=arms)
    assert found.startswith("b contributed nothing to Merging")
    again = [*events, at("reused", arm="merging-mean", sites=["b"])]
    assert missing_in(tmp_path, *again, arms=arms) == []


def test_it_is_the_first_thing_that_is_said(tmp_path: Path) -> None:
    missing_in(
        tmp_path,
        at("refused", site="<c>", reason="other labels"),
        lines=lines_of_all_arms(),
        state="finished",
    )
    page = render(read_results(tmp_path))
    assert page.index("&lt;c&gt; did not take part") < page.index('class="lead"')
    console = Console(record=True, width=120, quiet=False, file=io.StringIO())
    finish(RunFolder(tmp_path), console)
    said = console.export_text()
    assert said.index("<c> did not take part") < said.index("Dice")


def test_a_whole_result_has_no_banner(tmp_path: Path) -> None:
    assert missing_in(tmp_path, lines=lines_of_all_arms(), state="finished") == []
    assert "missing" not in render(read_results(tmp_path)).split("<main>")[1].split("<h2>")[0]
