import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from polyclinic.reporting.summary import (
    show_date,
    show_difference,
    show_duration,
    show_rounds,
    summarize,
)
from rich.console import Console

from polyclinic.errors import RunError
from polyclinic.reporting.results import read_results
from polyclinic_server.reports.page import terminal_label_table, terminal_table, write_report

MINUS = "\N{MINUS SIGN}"
HOSTILE = "<script>alert('x')</script>[red]\"onload=1"
TITLES = {"local": "local only", "fedavg": "FedAvg", "fedbn": "FedBN", "pooled": "pooled"}
SCORES = {"local": (0.6, 0.5), "fedavg": (0.7, 0.44), "fedbn": (0.65, 0.6), "pooled": (0.8, 0.7)}


class Page(HTMLParser):
    """Tags with their attributes, the cells of the tables, and all the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self.in_cell = True

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data.strip()

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in {"td", "th"}


def write_run(
    folder: Path,
    sites: tuple[str, str] = ("a", "b"),
    scores: dict[str, tuple[float, float]] = SCORES,
    **changes: Any,
) -> Path:
    run = {
        "name": "two hospitals",
        "started": "2025-03-04T09:00:00+00:00",
        "finished": "2025-03-04T10:02:03+00:00",
        "state": "finished",
        "reason": None,
        "versions": {"polyclinic": "0.1.0", "torch": "2.10"},
        "seed": 7,
        "rounds": 2,
        "arms": [{"name": name, "title": TITLES[name]} for name in scores],
        "task": "segmentation",
        "score_name": "Dice",
        "labels": ["background", "CSF", "grey matter"],
        "hospitals": {
            site: {"modality": "T1", "training": 4, "validation": 1, "test": 2} for site in sites
        },
    }
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run | changes))
    (folder / "config.yaml").write_text("model: <unet>\n")
    with (folder / "metrics.jsonl").open("w") as file:
        for arm, pair in scores.items():
            for site, score in zip(sites, pair, strict=True):
                common = {"time": 1.0, "arm": arm, "site": site, "round": 1}
                per_label = {"CSF": score - 0.1, "grey matter": score + 0.1}
                for entry in (
                    {"phase": "train", "loss": 1 - score},
                    {"phase": "validate", "score": score - 0.05, "scores": per_label},
                    {"phase": "test", "score": score, "scores": per_label},
                ):
                    file.write(json.dumps(common | entry) + "\n")
    return folder


def drop_tests(run: Path) -> None:
    path = run / "metrics.jsonl"
    kept = [line for line in path.read_text().splitlines(keepends=True) if '"test"' not in line]
    path.write_text("".join(kept))


def test_the_headline_table_has_the_numbers_computed_by_hand(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path)))
    assert page.rows[1] == [
        "aT1 · 4 training, 1 validation, 2 test",
        "0.600",
        "0.700+0.100",
        "0.650+0.050",
        "0.800+0.200",
    ]
    assert page.rows[3] == ["Mean", "0.550", "0.570+0.020", "0.625+0.075", "0.750+0.200"]
    assert ["b", "CSF", "0.400", f"0.340{MINUS}0.060", "0.500+0.100", "0.600+0.200"] in page.rows
    assert (
        "FedBN reaches a Dice of 0.625, against 0.550 for hospitals that trained alone" in page.text
    )


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path)))
    loads = [
        value
        for _, attrs in page.tags
        for name, value in attrs.items()
        if name in {"src", "href", "srcset"}
    ]
    assert all(value is not None and value.startswith("data:") for value in loads)
    assert not re.search(r"https?://|url\(|@import", page.source)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}


def test_a_hostile_name_is_only_text(tmp_path: Path) -> None:
    run = write_run(tmp_path, sites=(HOSTILE, "../../etc"), reason="<b>no</b>", state="failed")
    page = Page(write_report(run))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in page.source
    assert "<b>no" not in page.source
    assert HOSTILE in page.text
    assert not any("onload" in attrs for _, attrs in page.tags)
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    console.print(terminal_table(read_results(run)))
    assert "[red]" in console.export_text()
    console.file.close()


def test_pictures_are_inside_the_page_with_their_captions(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for name in ("image", "truth", "fedavg", "unknown"):
        path = run / "pictures" / "a" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 90).save(path)
    (run / "pictures" / "a" / "fedbn.png").write_bytes(b"<svg onload=alert(1)>")
    (run / "pictures" / "stranger").mkdir()
    page = Page(write_report(run))
    alts = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert alts == ["a: T1 image", "a: reference", "a: FedAvg"]
    assert "FedAvgDice 0.700" in page.text


def test_without_pictures_the_page_says_where_they_are(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path)))
    assert "images and predictions stay at the hospitals" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


@pytest.mark.parametrize("state", ["waiting", "running", "failed", "interrupted"])
def test_an_unfinished_run_says_so_first(tmp_path: Path, state: str) -> None:
    run = write_run(tmp_path, state=state, finished=None, reason="The disk was full.")
    drop_tests(run)
    page = Page(write_report(run))
    assert "The disk was full." in page.text
    assert "not a final result" in page.text
    assert "no test result is in yet" in page.text
    assert page.rows[3][1] == "0.500", "the mean of the last validation"


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path, state="waiting", rounds=0)
    (run / "metrics.jsonl").unlink()
    assert "There are no scores yet" in Page(write_report(run)).text


def test_a_classification_run(tmp_path: Path) -> None:
    run = write_run(
        tmp_path,
        task="classification",
        score_name="balanced accuracy",
        labels=["CSF", "grey matter"],
        scores=SCORES,
    )
    page = Page(write_report(run))
    assert "FedBN reaches a balanced accuracy of 0.625" in page.text
    assert "Every class" in page.text
    assert "recall" in page.text
    assert "Dice" not in page.text


def test_one_federated_arm_alone(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path, scores={"fedavg": (0.7, 0.5)})))
    assert "no model trained by a hospital alone" in page.text
    assert page.rows[3] == ["Mean", "0.600"]


@pytest.mark.parametrize(
    ("federated", "verdict"),
    [
        ((0.5, 0.5), f"did not help in this run ({MINUS}0.050)"),
        ((0.6, 0.501), "no clear difference"),
        ((0.7, 0.5), "helped"),
    ],
)
def test_the_summary_is_honest(
    tmp_path: Path, federated: tuple[float, float], verdict: str
) -> None:
    results = read_results(write_run(tmp_path, scores={"local": (0.6, 0.5), "fedavg": federated}))
    assert verdict in summarize(results).lead


def test_the_summary_names_the_hospitals_that_lost(tmp_path: Path) -> None:
    support = summarize(
        read_results(write_run(tmp_path, scores={"local": (0.6, 0.5), "fedavg": (0.9, 0.4)}))
    ).support
    assert (
        f"better than the hospital alone at 1 of 2 hospitals; it did worse at b ({MINUS}0.100)"
        in support
    )


def test_a_missing_hospital_is_named_with_the_reason(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            '{"arm":"fedavg","round":2,"phase":"train","site":"b","missing":"offline since 12:30:05"}\n{"arm"'
        )
    page = Page(write_report(run))
    assert "b was missing in round 2 of FedAvg (training): offline since 12:30:05" in page.text
    assert "1 line of metrics.jsonl could not be read" in page.text


@pytest.mark.parametrize("table", [terminal_table, terminal_label_table])
def test_the_terminal_tables_stay_within_100_columns(tmp_path: Path, table: Any) -> None:
    results = read_results(
        write_run(tmp_path, sites=("a", "a-hospital-with-a-very-long-name-" * 5))
    )
    with (tmp_path / "out").open("w") as file:
        console = Console(width=240, record=True, file=file)
        console.print(table(results))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "0.700 (+0.100)" in text


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "report.html").write_text("old")
    assert write_report(run).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert {path.name for path in run.iterdir()} == {
        "run.json",
        "config.yaml",
        "metrics.jsonl",
        "report.html",
    }


def test_a_page_that_cannot_be_written_is_said_plainly(tmp_path: Path) -> None:
    (write_run(tmp_path) / "report.html").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_report(tmp_path)
    assert not list(tmp_path.glob(".report*"))


def test_words_for_numbers_and_times() -> None:
    assert show_rounds([4, 2, 3, 7]) == "2\N{EN DASH}4, 7"
    assert show_difference(-0.0004) == "±0.000"
    assert show_date("2025-03-04T09:05:00+00:00") == "4 March 2025, 09:05 UTC"
    assert show_date("yesterday") == "yesterday"
    assert show_duration("2025-03-04T09:00:00", "2025-03-04T10:02:03") == "1 h 2 min"
    assert show_duration("2025-03-04T09:00:00", "2025-03-04T10:02:03Z") == ""
