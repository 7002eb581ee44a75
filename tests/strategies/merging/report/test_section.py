from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from polyclinic.reporting.curves import curves
from polyclinic.reporting.narrative import summarize, tell_verdict
from polyclinic.reporting.results import Results, read_results
from polyclinic.reporting.scores import headline
from polyclinic.reporting.section import Section
from polyclinic.reporting.tables import terminal_tables
from polyclinic_server.reports.page import write_report
from polyclinic_strategies.merging.report.arrival_chart import (
    draw_arrivals,
    find_levels,
    find_steps,
)
from polyclinic_strategies.merging.report.narrative import SUBJECT
from polyclinic_strategies.merging.report.notices import REFUSED
from polyclinic_strategies.merging.report.section import ArmReport, make_section, report_arm
from polyclinic_strategies.merging.report.standings import compare, recover
from polyclinic_strategies.merging.report.timeline import TimeAxis, draw_timeline, find_cuts
from polyclinic_strategies.merging.report.timeline_events import Story, tell_story
from tests.pages import DASH, MINUS, Page, figures
from tests.strategies.merging.merging_run import (
    ARM,
    TESTS,
    arms,
    at,
    entries,
    events,
    metric,
    published,
    scored,
    validations,
    write_merging_run,
)

HOSTILE = "<script>alert('x')</script>[red]\"onload=1"


def read(folder: Path, *metrics: dict[str, Any], **changes: Any) -> Results:
    return read_results(write_merging_run(folder, metrics or None, **changes))


def section(results: Results) -> Section:
    made = make_section(results)
    assert made is not None
    return made


def report(results: Results) -> ArmReport:
    return report_arm(results, results.arms[0])


def story(results: Results) -> Story:
    told = tell_story(results, results.arms[0])
    assert told is not None
    return told


def table_of(folder: Path) -> Table:
    _, table = terminal_tables(read_results(folder))
    return table


def text_of(table: Table, width: int) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_models_that_are_compared_are_no_columns(tmp_path: Path) -> None:
    results = read(tmp_path)
    assert [arm.name for arm in results.arms] == [ARM, "fedavg", "local", "pooled"]
    assert {m.arm for m in results.compared} == TESTS.keys() - {ARM, "fedavg", "local", "pooled"}
    assert headline(results).averaged == ("a", "b", "c")
    assert results.rounds == 2, "a published model's number is no round"


def test_an_arm_that_is_compared_stays_a_column(tmp_path: Path) -> None:
    compared = {"arm": ARM, "entries": [*entries(), {"name": "fedavg", "group": "rule"}]}
    results = read(tmp_path, comparison=compared)
    assert [arm.name for arm in results.arms] == [ARM, "fedavg", "local", "pooled"]
    names = [row.name for row in compare(results, results.arms[0]).standings]
    assert names.count("fedavg") == 1


def test_the_rules_are_as_computed_by_hand(tmp_path: Path) -> None:
    results = read(tmp_path)
    found = compare(results, results.arms[0], "Mean")
    rows = {row.title: row for row in found.standings}
    assert [row.role for row in found.standings] == [
        "published", "rule", "single", "singles", "control", "reference", "reference",
    ]  # fmt: skip
    merged, ties, single, singles, random, fedavg, pooled = found.standings
    titles = [row.title for row in (merged, ties, single, random, fedavg, pooled)]
    assert titles == ["Merging (mean)", "TIES", "a alone", "random vector", "FedAvg", "pooled"]
    assert "3" in singles.title
    assert found.best is not None
    assert (found.best.name, found.best.mean) == ("single.a", pytest.approx(0.6))
    assert rows["Merging (mean)"].mean == pytest.approx(0.7)
    assert rows["Merging (mean)"].difference == pytest.approx(0.1)
    assert rows["Merging (mean)"].recovery == pytest.approx(0.5)
    assert rows["pooled"].recovery == pytest.approx(1.0)
    assert rows["random vector"].recovery == pytest.approx(-2.5)
    assert singles.mean == pytest.approx((0.6 + 0.5 + 1.4 / 3) / 3)
    assert found.undefined == ""


def test_all_means_are_over_the_same_hospitals(tmp_path: Path) -> None:
    kept = [line for line in scored() if (line["arm"], line["site"]) != ("single.b", "c")]
    results = read(tmp_path, *kept)
    found = compare(results, results.arms[0])
    assert found.averaged == ("a", "b")
    assert found.published.mean == pytest.approx(0.65)


def test_recovery_is_undefined_without_a_gap() -> None:
    assert recover(0.7, 0.6, 0.8) == pytest.approx(0.5)
    assert recover(0.5, 0.6, 0.8) == pytest.approx(-0.5)
    assert recover(0.7, 0.8, 0.8) is None
    assert recover(0.7, 0.6, None) is None


def test_a_pooled_model_that_is_no_better_leaves_a_dash_and_its_reason(tmp_path: Path) -> None:
    run = write_merging_run(tmp_path, scored({**TESTS, "pooled": (0.3, 0.3, 0.3)}))
    page = Page(write_report(run))
    assert ["Merging (mean)", "published: Mean, scale 1", "0.700", "+0.100", DASH] in page.rows
    results = read_results(run)
    undefined = compare(results, results.arms[0]).undefined
    assert undefined and undefined in page.one(".recovery")


def test_restoration_is_given_to_everybody(tmp_path: Path) -> None:
    results = read(tmp_path)
    found = compare(results, results.arms[0]).restorations
    assert [each.name for each in found] == [ARM, "single.a", "single.b", "random"]
    merged, without, restored, random = (each.note for each in found)
    assert (merged, random) == ("", "")
    assert without != restored, "a is the best without restoration, b with it"
    said = report(results).restored
    assert figures(said) == ["+0.050", "+0.067", "+0.267", "+0.100", "0.750", "0.017", "0.767"]
    assert "0.017 below" in said and "b alone" in said.rpartition("0.017")[2]


def test_what_a_run_with_restoration_would_be_without(tmp_path: Path) -> None:
    lines = [{**line, "arm": line["arm"].replace(".restored", ".unrestored")} for line in scored()]
    each = [{**e, "name": e["name"].replace(".restored", ".unrestored")} for e in entries()]
    results = read(tmp_path, *lines, comparison={"arm": ARM, "entries": each})
    ours = compare(results, results.arms[0]).restorations[0]
    assert (ours.without, ours.restored) == (pytest.approx(0.75), pytest.approx(0.7))


def test_the_matrix_and_what_it_says(tmp_path: Path) -> None:
    found = report(read(tmp_path))
    assert [(travel.home, travel.scores) for travel, _ in found.heat] == [
        ("a", (0.8, 0.5, 0.5)),
        ("b", (0.4, 0.7, 0.4)),
        ("c", (0.3, 0.2, 0.9)),
        ("", (0.7, 0.6, 0.8)),
    ]
    assert found.heat[0][0].elsewhere == pytest.approx(0.5)
    assert figures(found.travelled) == ["0.800", "0.383", "0.200", "0.600"]
    assert "c at b" in found.travelled, "whose model is worst where"


def test_the_story_is_told_once_also_after_a_restart(tmp_path: Path) -> None:
    told = story(read(tmp_path))
    assert [(p.number, p.why, p.cause) for p in told.publications] == [
        (1, "arrival", ("a",)),
        (2, "arrival", ("b",)),
        (3, "arrival", ("c",)),
        (4, "withdrawal", ("b",)),
    ]
    assert told.publications[0].parameters == "scale 1"
    assert told.rule == "Mean, scale 1"
    assert told.restarts == (600.0,)
    assert told.presence == {
        "a": ((60.0, 360.0),),
        "b": ((120.0, 1200.0),),
        "c": ((660.0, 1200.0),),
    }
    assert told.most_present == 2
    assert told.length == 1200.0


def test_presence_before_the_arm_counts_and_ends_where_it_does(tmp_path: Path) -> None:
    happened = [
        at(-9, "arm_start", arm="fedavg"),
        at(-8, "joined", arm="fedavg", site="a"),
        at(-2, "left", arm="fedavg", site="b"),
    ]
    own = [at(0, "arm_start"), at(5, "arm_end"), at(9, "left", site="a")]
    told = story(read(tmp_path, happened=[*happened, *own]))
    assert told.presence == {"a": ((0.0, 300.0),), "b": (), "c": ()}
    assert not told.first
    assert draw_timeline(told).axis != draw_timeline(story(read(tmp_path / "whole"))).axis


def test_a_hospital_that_run_json_does_not_know_has_a_row(tmp_path: Path) -> None:
    happened = [at(0, "arm_start"), at(1, "joined", site="guest"), at(5, "arm_end")]
    told = story(read(tmp_path, happened=happened))
    assert list(told.presence) == ["a", "b", "c", "guest"]


def test_long_idle_times_are_cut_out_where_they_dominate() -> None:
    week = 7 * 86400.0
    ((a, b),) = find_cuts([0, 60, 120, week, week + 60], week + 60)
    assert 120 < a < b < week
    assert find_cuts([0, 1800, 1850, 3500], 3500) == [], "it is short enough to be shown"
    assert find_cuts([0, week, 2 * week], 2 * week) == [], "even steps tell something"
    axis = TimeAxis([60, 120, week], week + 60)
    placed = [axis(moment) for moment in (0, 60, 120, 86400, week, week + 60)]
    assert placed == sorted(placed)
    assert axis.ticks()[0][1] == "0"


def test_the_timeline_marks_differ_in_kind(tmp_path: Path) -> None:
    drawn = draw_timeline(story(read(tmp_path)))
    assert [[kind for _, kind, _ in row.marks] for row in drawn.rows] == [
        ["contribution"],
        ["duplicate", "contribution", "withdrawn"],
        ["contribution_refused", "contribution"],
    ]
    assert [label for *_, label in drawn.publications] == ["1", "2", "3", "4"]
    assert len(drawn.restarts) == 1
    assert [kind for kind, _ in drawn.kinds] == [
        "contribution", "duplicate", "contribution_refused", "withdrawn",
    ]  # fmt: skip


def test_scores_after_each_arrival(tmp_path: Path) -> None:
    results = read(tmp_path)
    steps = find_steps(results, results.arms[0], story(results))
    assert [(step.number, step.cause, step.complete) for step in steps] == [
        (1, "a", False),
        (2, "b", True),
        (3, "c", True),
    ]
    chart = draw_arrivals(results.arms[0], steps, (), results.arms)
    assert chart is not None
    assert [dot.partial for dot in chart.dots] == [True, False, False]
    assert figures(report(results).developed) == ["2", "3", "0.500", "0.700", "+0.200"]
    assert draw_arrivals(results.arms[0], (), (), results.arms) is None


def test_a_mean_that_falls_names_the_best_model_and_who_lost(tmp_path: Path) -> None:
    lines = [metric(ARM, s, "validate", 1, score=0.5) for s in "abc"]
    lines += [
        metric(ARM, s, "validate", 2, score=v) for s, v in zip("abc", (0.1, 0.5, 0.6), strict=True)
    ]
    said = report(read(tmp_path, *lines)).developed
    assert figures(said) == ["1", "2", "0.500", "0.400", f"{MINUS}0.100", "1", "0.500"]
    assert "At a the" in said, "b and c did not lose"


def test_levels_only_where_the_same_images_were_scored(tmp_path: Path) -> None:
    others = [metric("fedavg", site, "validate", 2, score=0.6) for site in "abc"]
    others += [
        metric("pooled", site, "validate", 2, score=0.9) | {"num_examples": 7} for site in "abc"
    ]
    others += [metric("local", site, "validate", 2, score=0.5) for site in "ab"]
    others += [metric("single.b", site, "validate", 0, score=0.4) for site in "abc"]
    results = read(tmp_path, *validations(), *others)
    levels = find_levels(results, results.arms[0])
    assert [round(level.value, 3) for level in levels] == [0.6, 0.4]
    assert levels[0].title == "FedAvg" and levels[1].title.endswith(": b")
    assert "0.100 above FedAvg (0.600)" in report(results).developed


def test_what_happened_has_its_figures(tmp_path: Path) -> None:
    page = Page(write_report(write_merging_run(tmp_path)))
    assert page.ids == ["arrivals-1"] and page.count("a", href="#arrivals-1") == 1
    happened = page.one(".happened")
    assert happened.startswith("3 of 3 hospitals")
    assert figures(happened) == ["3", "3", "5", "14", "2", "3", "4", "2", "1"]
    notices = page.one(".notices")
    assert figures(notices) == ["8", "12", "16"], "minutes of the repetition, refusal, withdrawal"
    assert REFUSED["NotFinite"] in notices
    assert "c: conv.weight contains NaN or Inf: training diverged." in notices
    assert "consent was withdrawn" in notices


def test_the_worth_has_its_figures(tmp_path: Path) -> None:
    said = " ".join(report(read(tmp_path)).worth)
    assert figures(said) == ["0.700", "0.100", "0.600", "50 %", "0.020", "0.100", "0.100"]
    assert "0.100 above" in said and "0.020 below FedAvg and 0.100 below pooled" in said
    assert "a alone" in said and "random vector" in said


def test_a_merging_arm_has_no_curve_over_rounds(tmp_path: Path) -> None:
    results = read(tmp_path, *validations(), metric("fedavg", "a", "validate", 1, score=0.5))
    assert [curve.arm.name for curve in curves(results, "validate", "score")] == ["fedavg"]


def test_the_page_says_who_built_on_others_work(tmp_path: Path) -> None:
    alone = report(read(tmp_path / "alone")).procedure
    happened = [
        line | {"start": 1} if line["kind"] == "contribution" and line["site"] == "b" else line
        for line in events()
    ]
    run = write_merging_run(tmp_path / "built", None, happened)
    built = report(read_results(run)).procedure
    assert "1 hospital " not in alone and "1 hospital " in built


def test_the_page_still_loads_nothing(tmp_path: Path) -> None:
    assert Page(write_report(write_merging_run(tmp_path))).is_inert()


def test_a_hostile_name_is_only_text(tmp_path: Path) -> None:
    happened = [line | {"site": HOSTILE} if line.get("site") == "c" else line for line in events()]
    happened += [
        at(17, "contribution_refused", site=HOSTILE, error=HOSTILE, reason="<b>no</b>", digest="")
    ]
    sites = ("a", "b", HOSTILE)
    metrics = scored({n.replace(".c", f".{HOSTILE}"): row for n, row in TESTS.items()}, sites)
    run = write_merging_run(tmp_path, metrics, happened, sites)
    page = Page(write_report(run))
    assert page.is_inert()
    assert "<b>no" not in page.source and HOSTILE in page.text
    assert max(map(len, text_of(table_of(run), 200).splitlines())) <= 100


@pytest.mark.parametrize("gone", ["nothing", "events", "comparison", "metrics"])
def test_a_page_of_whatever_there_is(tmp_path: Path, gone: str) -> None:
    run = write_merging_run(
        tmp_path,
        metrics=[] if gone == "metrics" else None,
        happened=[] if gone == "events" else None,
        comparison="leave out" if gone == "comparison" else {"arm": ARM, "entries": entries()},
    )
    page = Page(write_report(run))
    assert "arrivals-1" in page.ids
    assert bool(page.all(".happened")) == (gone != "events")
    assert bool(page.all(".restored")) == (gone != "metrics")
    assert bool(section(read_results(run)).tables) == (gone != "metrics")


def test_a_run_without_merging_has_no_such_part(tmp_path: Path) -> None:
    results = read(
        tmp_path, *scored({"fedavg": TESTS["fedavg"]}), arms=arms("fedavg"), comparison="leave out"
    )
    assert make_section(results) is None
    assert len(terminal_tables(results)) == 1
    assert Page(write_report(tmp_path)).ids == []


def test_merging_alone_is_not_told_in_rounds(tmp_path: Path) -> None:
    alone = {name: row for name, row in TESTS.items() if name not in ("fedavg", "pooled", "local")}
    run = write_merging_run(tmp_path, [*validations(), *scored(alone)], arms=arms(ARM))
    page = Page(write_report(run))
    lead = page.one(".lead")
    assert lead.startswith(f"{SUBJECT} {tell_verdict(0.1)}")
    assert figures(lead) == ["+0.100", "3", "0.700", "0.600"] and "a alone" in lead
    assert "rounds" not in page.one(".facts")
    assert not any("round" in heading for heading in page.all("h2"))
    assert page.all(".rounds") == page.all(".charts") == page.all(".absences") == []
    assert "training steps" not in page.one(".procedure")
    results = read_results(run)
    assert compare(results, results.arms[0]).undefined in page.one(".recovery")


def test_the_lead_with_local_and_pooled(tmp_path: Path) -> None:
    few = {name: row for name, row in TESTS.items() if name != "fedavg"}
    results = read(tmp_path, *scored(few), arms=arms(ARM, "local", "pooled"))
    summary = summarize(results, [section(results)])
    assert summary.lead.startswith(f"{SUBJECT} {tell_verdict(-0.1)}")
    assert "Merging (mean) is 0.100 above" in summary.support and "a alone" in summary.support


def test_worse_is_said_as_plainly(tmp_path: Path) -> None:
    results = read(tmp_path, *scored({**TESTS, ARM: (0.1, 0.1, 0.1)}))
    worth = " ".join(report(results).worth)
    assert "0.500 below" in worth and "TIES" in worth and "(0.600)" in worth
    better = " ".join(report(read(tmp_path / "better")).worth)
    control = [text.partition("random vector")[2].split(". ")[1] for text in (worth, better)]
    assert control[0] != control[1], "no better than a random vector is said to be that"
    assert "TIES" not in better
    summary = summarize(results, [section(results)])
    assert (f"{MINUS}0.500") in [figure for figure, _ in summary.tiles]


def test_scores_that_are_missing_have_their_reason(tmp_path: Path) -> None:
    lines = [metric(ARM, "c", "validate", n, missing="offline since noon") for n in (1, 2)]
    lines += [metric("ties", "b", round_=9, missing="out of memory")]
    results = read(tmp_path, *scored(), *lines)
    unscored, untested = report(results).notices[-2:]
    assert (unscored.site, unscored.reason) == ("c", "offline since noon")
    assert f"1{DASH}2" in unscored.text
    assert (untested.site, untested.reason) == ("b", "out of memory") and "TIES" in untested.text
    assert Page(write_report(tmp_path)).all(".absences") == [], "there are no rounds to miss"


def test_the_terminal_table(tmp_path: Path) -> None:
    text = text_of(table_of(write_merging_run(tmp_path)), 100)
    assert "Merging (mean)" in text and "3 hospitals" in text
    assert "50 %" in text
    assert f"{MINUS}250 %" in text
    assert "published, Mean, scale 1" in text


def test_a_publication_with_other_parameters_is_told_apart(tmp_path: Path) -> None:
    happened = [*events()[:-1], published(17, 5, "ac", why="parameters")]
    assert story(read(tmp_path, happened=happened)).publications[-1].cause == ()
    lines = [metric(ARM, site, "validate", 5, score=0.5) for site in "abc"]
    results = read(tmp_path, *lines, happened=happened)
    (step,) = find_steps(results, results.arms[0], story(results))
    assert step.cause not in ("", "a", "b", "c"), "no hospital's arrival"


def test_the_page_says_what_was_set_aside_and_who_failed_with_the_reasons(tmp_path: Path) -> None:
    happened = [
        *events()[:-1],
        at(17, "set_aside", site="a", digest="a" * 64, reason="fisher has values below zero <b>"),
        at(
            18, "failed", site="c", phase="collect", round=0, reason="17 figures came, 3 were asked"
        ),
        at(
            19, "failed", site="c", phase="collect", round=0, reason="17 figures came, 3 were asked"
        ),
        at(20, "arm_end"),
    ]
    page = Page(write_report(write_merging_run(tmp_path, happened=happened)))
    (aside,) = [each for each in page.all("li") if "fisher has values below zero <b>" in each]
    (failed,) = [each for each in page.all("li") if "17 figures came, 3 were asked" in each]
    assert aside.startswith("a ") and "17 min" in aside
    assert failed.startswith("c ") and "18 min" in failed and "19 min" in failed
