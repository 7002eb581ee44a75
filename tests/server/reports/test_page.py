import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from polyclinic.errors import RunError
from polyclinic.federation import method as registry
from polyclinic.federation.method import Method
from polyclinic.reporting.narrative import NO_TEST_YET, summarize, tell_verdict
from polyclinic.reporting.results import Results, read_results
from polyclinic.reporting.section import ArmNote, Pointer, Section, Summary
from polyclinic.reporting.tables import (
    make_table,
    terminal_label_table,
    terminal_table,
    terminal_tables,
)
from polyclinic_server.reports.page import render, write_report
from tests.pages import MINUS, Page, figures

HOSTILE = "<script>alert('x')</script>[red]\"onload=1"
TITLES = {"local": "local only", "fedavg": "FedAvg", "fedbn": "FedBN", "pooled": "pooled"}
SCORES = {"local": (0.6, 0.5), "fedavg": (0.7, 0.44), "fedbn": (0.65, 0.6), "pooled": (0.8, 0.7)}


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
    lead = page.one(".lead")
    assert "FedBN" in lead
    assert figures(lead) == ["+0.075", "2", "0.625", "0.550"]


def test_the_facts_under_the_title(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path)))
    assert page.one("h1") == "two hospitals"
    assert page.one(".facts").split(" · ") == [
        "Segmentation",
        "2 hospitals",
        "2 rounds",
        "4 test images",
        "started 4 March 2025, 09:00 UTC",
        "took 1 h 2 min",
    ]


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    assert Page(write_report(write_run(tmp_path))).is_inert()


def test_a_hostile_name_is_only_text(tmp_path: Path) -> None:
    run = write_run(tmp_path, sites=(HOSTILE, "../../etc"), reason="<b>no</b>", state="failed")
    page = Page(write_report(run))
    assert page.is_inert()
    assert "<b>no" not in page.source
    assert HOSTILE in page.text
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
    assert page.all("figcaption")[-3:] == ["T1 image", "reference", "FedAvgDice 0.700"]
    assert page.is_inert()
    assert "demo" in page.source and "simulation" not in page.source


def test_pictures_of_a_simulation_are_no_demo(tmp_path: Path) -> None:
    run = write_run(tmp_path, simulated=True)
    (run / "pictures" / "a").mkdir(parents=True)
    Image.new("L", (8, 8), 90).save(run / "pictures" / "a" / "image.png")
    page = Page(write_report(run))
    assert page.count("img") == 1
    assert "simulation" in page.source and "demo" not in page.source


def test_without_pictures_there_are_none(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path)))
    assert "Pictures" in page.all("h2")
    assert page.count("img") == 0


@pytest.mark.parametrize("state", ["waiting", "running", "failed", "interrupted"])
def test_an_unfinished_run_says_so_first(tmp_path: Path, state: str) -> None:
    run = write_run(tmp_path, state=state, finished=None, reason="The disk was full.")
    drop_tests(run)
    page = Page(write_report(run))
    assert "The disk was full." in page.one(".banner")
    assert page.source.index('class="banner') < page.source.index('class="lead"')
    assert page.count("div", role="status") == 1
    assert NO_TEST_YET in page.one(".support")
    assert page.rows[3][1] == "0.500", "the mean of the last validation"


def test_a_finished_run_has_no_banner(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path)))
    assert page.all(".banner") == []
    assert NO_TEST_YET not in page.text


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path, state="waiting", rounds=0)
    (run / "metrics.jsonl").unlink()
    page = Page(write_report(run))
    assert figures(page.one(".lead")) == []
    assert page.all(".tiles") == []
    assert page.all(".labels") == []


def test_a_classification_run(tmp_path: Path) -> None:
    run = write_run(
        tmp_path,
        task="classification",
        score_name="balanced accuracy",
        labels=["CSF", "grey matter"],
        scores=SCORES,
    )
    page = Page(write_report(run))
    lead = page.one(".lead")
    assert "FedBN" in lead and "balanced accuracy" in lead and "0.625" in figures(lead)
    assert {"Balanced accuracy at every hospital", "Every class"} <= set(page.all("h2"))
    assert "Dice" not in page.text


def test_one_federated_arm_alone(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path, scores={"fedavg": (0.7, 0.5)})))
    assert figures(page.one(".lead")) == ["2", "0.600"]
    assert page.rows[3] == ["Mean", "0.600"]


def test_a_run_without_a_federated_arm(tmp_path: Path) -> None:
    run = write_run(tmp_path, scores={"local": (0.6, 0.5), "pooled": (0.8, 0.7)})
    page = Page(write_report(run))
    lead = page.one(".lead")
    assert "pooled" in lead and figures(lead) == ["2", "0.750"]
    assert page.all(".rounds") == []


@pytest.mark.parametrize(
    ("federated", "gain", "shown"),
    [
        ((0.5, 0.5), -0.05, f"{MINUS}0.050"),
        ((0.6, 0.501), 0.001, "±0.000"),
        ((0.7, 0.5), 0.05, "+0.050"),
    ],
)
def test_the_summary_is_honest(
    tmp_path: Path, federated: tuple[float, float], gain: float, shown: str
) -> None:
    results = read_results(write_run(tmp_path, scores={"local": (0.6, 0.5), "fedavg": federated}))
    lead = summarize(results).lead
    assert figures(lead)[0] == shown
    assert tell_verdict(gain).split(" in ")[0] in lead


def test_the_three_verdicts() -> None:
    verdicts = [tell_verdict(gain).split(" in ")[0] for gain in (0.05, 0.004, -0.004, -0.05)]
    assert verdicts == [
        "helped", "made no clear difference", "made no clear difference", "did not help",
    ]  # fmt: skip


def test_the_summary_names_the_hospitals_that_lost(tmp_path: Path) -> None:
    results = read_results(write_run(tmp_path, scores={"local": (0.6, 0.5), "fedavg": (0.9, 0.4)}))
    summary = summarize(results)
    assert figures(summary.support)[:3] == ["1", "2", f"{MINUS}0.100"]
    assert f"b ({MINUS}0.100)" in summary.support
    assert "a (" not in summary.support
    assert (
        summary.tiles[2][0], summary.tiles[0][0], summary.tiles[1][0],
    ) == ("1 of 2", "0.650", "0.550")  # fmt: skip


def test_the_summary_puts_the_pooled_model_beside(tmp_path: Path) -> None:
    support = summarize(read_results(write_run(tmp_path))).support
    assert "0.125 below" in support, "FedBN 0.625, pooled 0.750"


def test_a_missing_hospital_is_named_with_the_reason(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            '{"arm":"fedavg","round":2,"phase":"train","site":"b","missing":"offline since noon"}\n'
            '{"arm"'
        )
    page = Page(write_report(run))
    absence = page.one(".absences")
    assert absence.startswith("b ") and "offline since noon" in absence
    assert "FedAvg" in absence and figures(absence) == ["2"]
    assert figures(page.one(".skipped")) == ["1"]
    assert page.count("span", title="round 2: missing") == 1


def test_rounds_of_every_hospital(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path)))
    assert page.one("h3") == "FedAvg, FedBN", "it was the same in both"
    assert [row[-1] for row in page.rows if row[0] in ("a", "b") and len(row) == 4] == [
        "1 of 2",
        "1 of 2",
    ]


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
    with pytest.raises(RunError, match=r"report\.html"):
        write_report(tmp_path)
    assert not list(tmp_path.glob(".report*"))


def install(monkeypatch: pytest.MonkeyPatch, make: Any, name: str = "visitor") -> None:
    """Install a method whose section a function makes, beside those that are there."""

    class Installed(Method):
        def load(self, part: str) -> Any:
            return make if part == "section" else None

    found = {**registry.methods(), name: Installed(name, "stages", "none:none", "none:none")}
    for module in ("polyclinic.reporting.results", "polyclinic.reporting.section"):
        monkeypatch.setattr(f"{module}.methods", lambda: found)


def write_templates(folder: Path) -> Path:
    folder.mkdir()
    (folder / "inner.html.j2").write_text("<em class='inner'>{{ score|score }}</em>")
    (folder / "visitor.css").write_text(".visitor { color:#123456 }")
    (folder / "visitor.html.j2").write_text(
        "{% from 'marks.html.j2' import difference %}"
        "<h2 id='visitor'>{{ words }}</h2>{% include 'inner.html.j2' %}{{ difference(0.25) }}"
        "<p class='name'>{{ results.run.name }}</p>"
    )
    return folder


def visit(templates: Path, **parts: Any) -> Section:
    values = {"words": HOSTILE, "score": 0.125}
    return Section(templates / "visitor.html.j2", values, templates / "visitor.css", **parts)


def test_a_method_adds_a_section_with_templates_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = write_templates(tmp_path / "templates")
    section = visit(
        templates,
        participation=(Pointer("Visits have no rounds.", "visitor"),),
        procedure=("Visits were counted.",),
    )
    install(monkeypatch, lambda results: section if results.run.seed == 7 else None)
    arms = [{"name": "fedavg", "title": "FedAvg", "kind": "visitor"}]
    run = write_run(tmp_path / "run", scores={"fedavg": (0.7, 0.5)}, arms=arms)
    page = Page(write_report(run))
    assert page.is_inert()
    assert "visitor" in page.ids and HOSTILE in page.all("h2")
    assert page.one(".inner") == "0.125" and page.one(".name") == "two hospitals"
    assert ".visitor { color:#123456 }" in page.source
    assert page.count("a", href="#visitor") == 1 and "Visits have no rounds." in page.text
    assert "Visits were counted." in page.one(".procedure")
    assert page.rows[0] == ["Hospital", "FedAvgin stages"]
    assert page.all(".rounds") == [], "stages are no rounds"
    other = write_run(tmp_path / "other", seed=8)
    assert "visitor" not in Page(write_report(other)).ids


def test_a_section_that_leads_takes_the_place_of_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = write_templates(tmp_path / "templates")
    table = make_table("visits", ["hospital"], ["visits"])
    install(monkeypatch, lambda _: visit(templates, leads=True, tables=(table,)))
    results = read_results(write_run(tmp_path / "run"))
    page = render(results)
    assert 'class="lead"' not in page and 'class="headline"' not in page
    assert page.index("id='visitor'") < page.index('table class="labels"')
    assert terminal_tables(results) == [table]


def test_a_method_words_the_summary_of_its_arms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = write_templates(tmp_path / "templates")
    note = ArmNote("Visiting", "Visits were fine.", "They were short.", (("9", "visits"),))
    section = visit(templates, arms={"fedavg": note})
    results = read_results(
        write_run(tmp_path / "run", scores={"local": (0.6, 0.5), "fedavg": (0.7, 0.6)})
    )
    summary = summarize(results, [section])
    assert summary.lead.startswith(f"Visiting {tell_verdict(0.1)}")
    assert "They were short." in summary.support and summary.tiles[-1] == ("9", "visits")
    alone = read_results(write_run(tmp_path / "alone", scores={"fedavg": (0.7, 0.6)}))
    assert summarize(alone, [section]).lead == "Visits were fine."
    whole = visit(templates, summary=Summary("All is said."))
    assert summarize(results, [section, whole]) == Summary("All is said.")


def test_a_method_places_its_own_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def adapt(results: Results) -> Results:
        kept = tuple(metric for metric in results.metrics if metric.arm != "fedbn.base")
        return Results(**{**vars(results), "metrics": kept})

    class Installed(Method):
        def load(self, part: str) -> Any:
            return adapt if part == "results" else None

    found = {"visitor": Installed("visitor", "stages", "none:none", "none:none")}
    run = write_run(tmp_path, scores={"fedbn": (0.7, 0.6)})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"arm":"fedbn.base","round":9,"phase":"train","site":"a","loss":1}\n')
    assert [arm.name for arm in read_results(run).arms] == ["fedbn", "fedbn.base"]
    monkeypatch.setattr("polyclinic.reporting.results.methods", lambda: found)
    results = read_results(run)
    assert [arm.name for arm in results.arms] == ["fedbn"]
    assert results.rounds == 2


def test_an_arm_of_a_method_that_is_not_installed_has_no_rounds(tmp_path: Path) -> None:
    arms = [{"name": "fedavg", "title": "FedAvg", "kind": "gone"}]
    run = write_run(tmp_path, scores={"fedavg": (0.7, 0.5)}, arms=arms)
    assert not read_results(run).arms[0].has_rounds
    page = Page(write_report(run))
    assert page.rows[0] == ["Hospital", "FedAvgwithout rounds"]
    assert page.all(".rounds") == []
