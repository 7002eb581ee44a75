from pathlib import Path
from typing import Any

import pytest
from polyclinic.reporting.summary import summarize, tiles
from rich.console import Console

from polyclinic.reporting.curves import curves
from polyclinic.reporting.results import Results, headline, read_results
from polyclinic_server.reports.page import write_report
from polyclinic_strategies.merging.report.arrival_chart import (
    draw_arrivals,
    find_levels,
    find_steps,
)
from polyclinic_strategies.merging.report.section import sections, terminal_merging_table
from polyclinic_strategies.merging.report.standings import compare, recover
from polyclinic_strategies.merging.report.timeline import Scale, draw_timeline, find_cuts, show_span
from polyclinic_strategies.merging.report.timeline_events import Story, read_events, tell_story
from tests.server.reports.test_page import Page
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

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
HOSTILE = "<script>alert('x')</script>[red]\"onload=1"


def read(folder: Path, *metrics: dict[str, Any], **changes: Any) -> Results:
    return read_results(write_merging_run(folder, metrics or None, **changes))


def story(results: Results) -> Story:
    told = tell_story(read_events(results.folder), results, results.arms[0])
    assert told is not None
    return told


def test_models_that_are_compared_are_no_columns(tmp_path: Path) -> None:
    results = read(tmp_path)
    assert [arm.name for arm in results.arms] == [ARM, "fedavg", "local", "pooled"]
    assert results.comparison is not None
    assert {m.arm for m in results.comparison.metrics} == TESTS.keys() - {
        ARM,
        "fedavg",
        "local",
        "pooled",
    }
    assert headline(results).averaged == ("a", "b", "c")
    assert results.rounds == 2, "a published model's number is no round"


def test_an_arm_that_is_compared_stays_a_column(tmp_path: Path) -> None:
    results = read(
        tmp_path,
        comparison={"arm": ARM, "entries": [*entries(), {"name": "fedavg", "group": "rule"}]},
    )
    assert [arm.name for arm in results.arms] == [ARM, "fedavg", "local", "pooled"]


def test_the_rules_are_as_computed_by_hand(tmp_path: Path) -> None:
    results = read(tmp_path)
    figures = compare(results, results.arms[0], "Mean")
    rows = {row.title: row for row in figures.standings}
    assert list(rows) == [
        "Merging (mean)",
        "TIES",
        "a alone",
        "mean over 3 single hospitals",
        "random vector",
        "FedAvg",
        "pooled",
    ]
    assert figures.best is not None
    assert (figures.best.name, figures.best.mean) == ("single.a", pytest.approx(0.6))
    assert rows["Merging (mean)"].mean == pytest.approx(0.7)
    assert rows["Merging (mean)"].difference == pytest.approx(0.1)
    assert rows["Merging (mean)"].recovery == pytest.approx(0.5)
    assert rows["pooled"].recovery == pytest.approx(1.0)
    assert rows["random vector"].recovery == pytest.approx(-2.5)
    assert rows["mean over 3 single hospitals"].mean == pytest.approx((0.6 + 0.5 + 1.4 / 3) / 3)
    assert figures.undefined == ""


def test_all_means_are_over_the_same_hospitals(tmp_path: Path) -> None:
    kept = [line for line in scored() if (line["arm"], line["site"]) != ("single.b", "c")]
    results = read(tmp_path, *kept)
    figures = compare(results, results.arms[0])
    assert figures.averaged == ("a", "b")
    assert figures.published.mean == pytest.approx(0.65)


def test_recovery_is_undefined_without_a_gap() -> None:
    assert recover(0.7, 0.6, 0.8) == pytest.approx(0.5)
    assert recover(0.5, 0.6, 0.8) == pytest.approx(-0.5)
    assert recover(0.7, 0.8, 0.8) is None
    assert recover(0.7, 0.6, None) is None


def test_a_pooled_model_that_is_no_better_leaves_a_dash_and_its_reason(tmp_path: Path) -> None:
    page = Page(
        write_report(write_merging_run(tmp_path, scored({**TESTS, "pooled": (0.3, 0.3, 0.3)})))
    )
    assert ["Merging (mean)", "published: Mean, scale 1", "0.700", "+0.100", DASH] in page.rows
    assert "undefined here" in page.text
    assert "not better than the best single hospital's" in page.text


def test_restoration_is_given_to_everybody(tmp_path: Path) -> None:
    results = read(tmp_path)
    found = compare(results, results.arms[0]).restorations
    assert [(each.name, each.note) for each in found] == [
        (ARM, ""),
        ("single.a", "best single hospital without restoration"),
        ("single.b", "best single hospital with restoration"),
        ("random", ""),
    ]
    assert (
        "With restoration for both, merging (0.750) is 0.017 below" in sections(results)[0].restored
    )


def test_what_a_run_with_restoration_would_be_without(tmp_path: Path) -> None:
    lines = [{**line, "arm": line["arm"].replace(".restored", ".unrestored")} for line in scored()]
    each = [{**e, "name": e["name"].replace(".restored", ".unrestored")} for e in entries()]
    results = read(tmp_path, *lines, comparison={"arm": ARM, "entries": each})
    ours = compare(results, results.arms[0]).restorations[0]
    assert (ours.without, ours.restored) == (pytest.approx(0.75), pytest.approx(0.7))


def test_the_matrix_and_what_it_says(tmp_path: Path) -> None:
    results = read(tmp_path)
    (section,) = sections(results)
    assert [(travel.home, travel.scores) for travel, _ in section.heat] == [
        ("a", (0.8, 0.5, 0.5)), ("b", (0.4, 0.7, 0.4)), ("c", (0.3, 0.2, 0.9)), ("", (0.7, 0.6, 0.8)),
    ]  # fmt: skip
    assert section.heat[0][0].elsewhere == pytest.approx(0.5)
    assert (
        "0.800 at its own hospital and 0.383 at others; lowest is 0.200, the model of c at b"
        in section.travelled
    )


def test_the_story_is_told_once_also_after_a_restart(tmp_path: Path) -> None:
    told = story(read(tmp_path))
    assert [(p.number, p.why, p.cause) for p in told.publications] == [
        (1, "arrival", ("a",)), (2, "arrival", ("b",)), (3, "arrival", ("c",)), (4, "withdrawal", ("b",)),
    ]  # fmt: skip
    assert told.publications[0].parameters == "scale 1"
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
    told = story(
        read(
            tmp_path,
            happened=[*happened, at(0, "arm_start"), at(5, "arm_end"), at(9, "left", site="a")],
        )
    )
    assert told.presence == {"a": ((0.0, 300.0),), "b": (), "c": ()}
    assert not told.first
    assert draw_timeline(told).axis == "time since merging began"


def test_damaged_events_are_passed_over(tmp_path: Path) -> None:
    run = write_merging_run(tmp_path)
    with (run / "events.jsonl").open("a") as file:
        file.write('[]\n{"kind":"x"}\n{"time":NaN,"kind":"x"}\n{"time":1,"ki')
    assert len(read_events(run)) == len(events())


def test_long_idle_times_are_cut_out_where_they_dominate() -> None:
    week = 7 * 86400.0
    ((a, b),) = find_cuts([0, 60, 120, week, week + 60], week + 60)
    assert 120 < a < b < week
    assert find_cuts([0, 1800, 1850, 3500], 3500) == [], "it is short enough to be shown"
    assert find_cuts([0, week, 2 * week], 2 * week) == [], "even steps tell something"
    scale = Scale([60, 120, week], week + 60)
    placed = [scale.x(moment) for moment in (0, 60, 120, 86400, week, week + 60)]
    assert placed == sorted(placed)
    assert scale.ticks()[0][1] == "0"


def test_times_in_words() -> None:
    assert [show_span(s) for s in (0, 42, 60, 90, 3600, 3660, 90000, 86400)] == [
        "0", "42 s", "1 min", "1 min 30 s", "1 h", "1 h 1 min", "1 d 1 h", "1 d",
    ]  # fmt: skip


def test_the_timeline_marks_differ_in_kind(tmp_path: Path) -> None:
    drawn = draw_timeline(story(read(tmp_path)))
    assert [[kind for _, kind, _ in row.marks] for row in drawn.rows] == [
        ["contribution"], ["duplicate", "contribution", "withdrawn"], ["contribution_refused", "contribution"],
    ]  # fmt: skip
    assert [label for *_, label in drawn.publications] == ["1", "2", "3", "4"]
    assert len(drawn.restarts) == 1


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
    assert [partial for *_, partial in chart.dots] == [True, False, False]
    assert "rose, from 0.500 to 0.700 (+0.200)" in sections(results)[0].developed
    assert draw_arrivals(results.arms[0], (), (), results.arms) is None


def test_levels_only_where_the_same_images_were_scored(tmp_path: Path) -> None:
    others = [metric("fedavg", site, "validate", 2, score=0.6) for site in "abc"]
    others += [
        metric("pooled", site, "validate", 2, score=0.9) | {"num_examples": 7} for site in "abc"
    ]
    others += [metric("local", site, "validate", 2, score=0.5) for site in "ab"]
    others += [metric("single.b", site, "validate", 0, score=0.4) for site in "abc"]
    results = read(tmp_path, *validations(), *others)
    levels = find_levels(results, results.arms[0])
    assert [(level.title, round(level.value, 3)) for level in levels] == [
        ("FedAvg", 0.6),
        ("best single: b", 0.4),
    ]
    assert "0.100 above FedAvg (0.600)" in sections(results)[0].developed


def test_the_page_tells_it_in_words(tmp_path: Path) -> None:
    page = Page(write_report(write_merging_run(tmp_path)))
    assert "3 of 3 hospitals contributed, the first after 5 min, the last after 14 min" in page.text
    assert "Never were all there at once: at most 2 of 3" in page.text
    assert "4 models were published; the last is made of 2 contributions" in page.text
    assert "it holds values that are not numbers" in page.text
    assert "c: conv.weight contains NaN or Inf: training diverged." in page.text
    assert "Reason: consent was withdrawn" in page.text
    assert "closes 50 % of the gap" in page.text
    assert "It is 0.020 below FedAvg and 0.100 below pooled" in page.text
    assert "Merging (mean) has no rounds" in page.text


def test_a_merging_arm_has_no_curve_over_rounds(tmp_path: Path) -> None:
    results = read(tmp_path, *validations(), metric("fedavg", "a", "validate", 1, score=0.5))
    assert [curve.arm.name for curve in curves(results, "validate", "score")] == ["fedavg"]


def test_the_page_still_loads_nothing(tmp_path: Path) -> None:
    page = Page(write_report(write_merging_run(tmp_path)))
    loads = [
        value or ""
        for _, attrs in page.tags
        for name, value in attrs.items()
        if name in {"src", "href", "srcset", "xlink:href"}
    ]
    assert all(value.startswith(("data:", "#")) for value in loads)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}


def test_a_hostile_name_is_only_text(tmp_path: Path) -> None:
    happened = [line | {"site": HOSTILE} if line.get("site") == "c" else line for line in events()]
    happened += [
        at(17, "contribution_refused", site=HOSTILE, error=HOSTILE, reason="<b>no</b>", digest="")
    ]
    sites = ("a", "b", HOSTILE)
    run = write_merging_run(
        tmp_path,
        scored({n.replace(".c", f".{HOSTILE}"): row for n, row in TESTS.items()}, sites),
        happened,
        sites,
    )
    page = Page(write_report(run))
    assert "<script" not in page.source
    assert "<b>no" not in page.source
    assert not any("onload" in attrs for _, attrs in page.tags)
    with (tmp_path / "out").open("w") as file:
        console = Console(width=200, record=True, file=file)
        console.print(terminal_merging_table(read_results(run)))
    assert max(map(len, console.export_text().splitlines())) <= 100


@pytest.mark.parametrize("gone", ["nothing", "events", "comparison", "metrics"])
def test_a_page_of_whatever_there_is(tmp_path: Path, gone: str) -> None:
    run = write_merging_run(
        tmp_path, metrics=[] if gone == "metrics" else None, happened=[] if gone == "events" else None,
        comparison="leave out" if gone == "comparison" else {"arm": ARM, "entries": entries()},
    )  # fmt: skip
    page = Page(write_report(run))
    assert "Merging (mean): hospitals contribute when they can" in page.text
    assert (terminal_merging_table(read_results(run)) is None) == (gone == "metrics")


def test_a_run_without_merging_has_no_such_part(tmp_path: Path) -> None:
    results = read(
        tmp_path, *scored({"fedavg": TESTS["fedavg"]}), arms=arms("fedavg"), comparison="leave out"
    )
    assert sections(results) == ()
    assert terminal_merging_table(results) is None
    assert "hospitals contribute when they can" not in Page(write_report(tmp_path)).text


def test_merging_alone_is_not_told_in_rounds(tmp_path: Path) -> None:
    alone = {name: row for name, row in TESTS.items() if name not in ("fedavg", "pooled", "local")}
    page = Page(
        write_report(write_merging_run(tmp_path, [*validations(), *scored(alone)], arms=arms(ARM)))
    )
    assert "Merging the hospitals' models helped in this run (+0.100)" in page.text
    assert "0.600 for the best single hospital's model (a alone), used everywhere" in page.text
    for nonsense in (
        "round by round",
        "2 rounds",
        "no federated arm",
        "same number of training steps",
        "was reported missing",
    ):
        assert nonsense not in page.text
    assert "no model trained on all images in one place was tested" in page.text


def test_the_lead_with_local_and_pooled(tmp_path: Path) -> None:
    few = {name: row for name, row in TESTS.items() if name != "fedavg"}
    summary = summarize(read(tmp_path, *scored(few), arms=arms(ARM, "local", "pooled")))
    assert summary.lead.startswith(
        f"Merging the hospitals' models did not help in this run ({MINUS}0.100)"
    )
    assert (
        "Merging (mean) is 0.100 above the best single hospital's model (a alone, used at every hospital)"
        in summary.support
    )


def test_worse_is_said_as_plainly(tmp_path: Path) -> None:
    results = read(tmp_path, *scored({**TESTS, ARM: (0.1, 0.1, 0.1)}))
    worth = " ".join(sections(results)[0].worth)
    assert "0.500 below the best single hospital's model" in worth
    assert "says nothing about what the hospitals learned" in worth
    assert "TIES has the highest score (0.600); it was not the one that was published" in worth
    assert (f"{MINUS}0.500", "Merging (mean) beside a alone, the best single hospital") in tiles(
        results
    )


def test_scores_that_are_missing_have_their_reason(tmp_path: Path) -> None:
    lines = [metric(ARM, "c", "validate", n, missing="offline since noon") for n in (1, 2)]
    page = Page(
        write_report(
            write_merging_run(
                tmp_path,
                [*scored(), *lines, metric("ties", "b", round_=9, missing="out of memory")],
            )
        )
    )
    assert f"c did not score published model 1{DASH}2. Reason: offline since noon" in page.text
    assert "b did not test TIES. Reason: out of memory" in page.text
    assert "missing in round" not in page.text


def test_the_terminal_table(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        console = Console(width=100, record=True, file=file)
        console.print(terminal_merging_table(read(tmp_path / "run")))
    text = console.export_text()
    assert "Merging (mean): mean Dice on the test images of 3 hospitals" in text
    assert "50 %" in text
    assert f"{MINUS}250 %" in text
    assert "published, Mean, scale 1" in text


def test_a_publication_with_other_parameters_is_told_apart(tmp_path: Path) -> None:
    results = read(tmp_path, happened=[*events()[:-1], published(17, 5, "ac", why="parameters")])
    assert story(results).publications[-1].cause == ()
    lines = [metric(ARM, site, "validate", 5, score=0.5) for site in "abc"]
    results = read(
        tmp_path, *lines, happened=[*events()[:-1], published(17, 5, "ac", why="parameters")]
    )
    assert find_steps(results, results.arms[0], story(results))[0].cause == "retuned"
