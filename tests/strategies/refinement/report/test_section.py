from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from polyclinic.errors import RunError
from polyclinic.reporting.results import Results, headline, read_results
from polyclinic_server.reports.page import write_report
from polyclinic_server.reports.participation import rosters
from polyclinic_strategies.merging.report.timeline_events import read_events
from polyclinic_strategies.refinement.report.section import (
    Section,
    choose_portrait,
    describe_refinement,
)
from polyclinic_strategies.refinement.report.table import find_baseline, terminal_refinement_table
from tests.server.reports.test_page import Page
from tests.strategies.refinement.refinement_run import (
    ARM,
    CENTRE,
    FAR_AWAY,
    LATER,
    TESTS,
    TRAINED,
    at,
    draw_pictures,
    events,
    hospitals,
    join,
    metric,
    moved,
    record,
    scored,
    write_refinement_run,
)

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
HOSTILE = "<script>alert('x')</script>[red]\"onload=1"


def read(folder: Path, tests: Any = None, **changes: Any) -> Results:
    return read_results(
        write_refinement_run(
            folder, None if tests is None else scored({**TESTS, **tests}), **changes
        )
    )


def section(results: Results, *sites: str) -> Section:
    pictured = dict.fromkeys(sites, ("image", "truth", "fedavg", CENTRE, ARM))
    described = describe_refinement(results, read_events(results.folder), pictured)
    assert described is not None
    return described


def page(folder: Path, **changes: Any) -> Page:
    return Page(write_report(write_refinement_run(folder, **changes)))


def text_of(table: Any, width: int = 240) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_the_table_has_two_groups_with_means_computed_by_hand(tmp_path: Path) -> None:
    rows = page(tmp_path).rows
    first = rows.index(["Took part"])
    assert rows[first - 1] == [
        "Hospital",
        "alonelocal only",
        "averagingFedAvg",
        "mergingMerging (mean)",
        "refinedRefinement",
        "pooled",
    ]
    assert rows[first + 1 : first + 10] == [
        ["aT1 · 4 training images", "0.800", "0.700", "0.720", "0.820+0.120", "0.850"],
        ["bT1 · 4 training images", "0.700", "0.600", "0.620", "0.720+0.120", "0.750"],
        ["cT1 · 4 training images · left later", "0.600", "0.500", "0.520", "0.620+0.120", "0.650"],
        ["Mean", "0.700", "0.600", "0.620", "0.720+0.120", "0.750"],
        ["Joined later with a description alone"],
        ["xT2", DASH, "0.400", "0.450", "0.700+0.300", "0.750"],
        ["yT2", DASH, "0.500", "0.500", "0.600+0.100", "0.700"],
        ["zT2", DASH, "0.600", "0.610", f"0.590{MINUS}0.010", "0.650"],
        ["Mean", DASH, "0.500", "0.520", "0.630+0.130", "0.700"],
    ]


def test_the_lead_and_what_puts_it_in_proportion(tmp_path: Path) -> None:
    found = section(read(tmp_path))
    assert found.lead == (
        "Three hospitals that joined later, without labels and without training, got a model of their own: "
        "Dice 0.630 instead of 0.500 with averaging."
    )
    assert (
        f"better than averaging at 2 of 3 hospitals that joined later; it did worse at z ({MINUS}0.010)."
        in found.support
    )
    assert (
        "is 0.110 above that of one merged model for everybody (0.520) and 0.070 below that of one model trained"
        in found.support
    )
    assert (
        "At the hospitals that took part, refined models reach 0.720, against 0.700 alone and 0.600 with averaging."
        in found.support
    )
    assert "For z nobody was near enough" in found.support


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (
            (0.3, 0.3, 0.3),
            "got a model of their own, but that did not help: Dice 0.300, against 0.500 with averaging.",
        ),
        (
            (0.5, 0.5, 0.502),
            "but that made no clear difference: Dice 0.501, and 0.500 with averaging.",
        ),
        ((0.5, 0.5, 0.53), "got a model of their own: Dice 0.510 instead of 0.500 with averaging."),
    ],
)
def test_the_lead_is_honest(tmp_path: Path, scores: tuple[float, ...], said: str) -> None:
    assert said in section(read(tmp_path, {ARM: (0.9, 0.9, 0.9, *scores)})).lead


def test_without_scores_of_newcomers_the_page_is_about_the_others(tmp_path: Path) -> None:
    found = section(read(tmp_path, {name: row[:3] + (None,) * 3 for name, row in TESTS.items()}))
    assert (
        found.lead
        == "Three hospitals that took part got a model of their own: Dice 0.720 instead of 0.600 with averaging."
    )
    assert "x, y and z joined later; there is no score of their models." in found.support
    assert found.groups[1].mean is None


def test_without_averaging_the_merged_model_is_what_it_is_compared_with(tmp_path: Path) -> None:
    results = read(tmp_path, {"fedavg": (None,) * 6})
    assert find_baseline(results) == CENTRE
    assert (
        "Dice 0.630 instead of 0.520 with one merged model for everybody." in section(results).lead
    )
    assert [head for head, _ in section(results).columns] == [
        "alone",
        "merging",
        "refined",
        "pooled",
    ]


def test_a_score_of_zero_is_a_score(tmp_path: Path) -> None:
    found = section(read(tmp_path, {"fedavg": (0.7, 0.6, 0.5, 0.0, 0.5, 0.6)}))
    assert found.groups[1].rows[0].cells[3].difference == pytest.approx(0.7)


def test_newcomers_and_others_are_never_averaged_together(tmp_path: Path) -> None:
    results = read(tmp_path, {"local": (None,) * 6})
    assert headline(results).averaged == TRAINED, "not even where every hospital has every score"
    assert headline(results).mean[ARM].score == pytest.approx(0.72)
    rows = Page(write_report(results.folder)).rows
    assert ["Mean of those that took part", "CSF", DASH, "0.600", "0.620", "0.720", "0.750"] in rows
    assert [
        "Mean of those that joined later",
        "CSF",
        DASH,
        "0.500",
        "0.520",
        "0.630",
        "0.700",
    ] in rows


def test_what_was_measured_on_the_way_is_no_result(tmp_path: Path) -> None:
    results = read(tmp_path)
    assert [arm.name for arm in results.arms] == ["local", "fedavg", CENTRE, ARM, "pooled"]
    assert results.rounds == 2, "the ninth published model is no ninth round"
    found = rosters(results)
    assert [roster.title for roster in found] == ["FedAvg"]
    assert found[0].rows == dict.fromkeys(TRAINED, ("trained", "trained")), (
        "nobody expected newcomers in rounds"
    )


def test_scores_of_published_models_are_not_those_of_refined_ones(tmp_path: Path) -> None:
    found = read_results(
        write_refinement_run(
            tmp_path, [metric(ARM, site, "validate", 9, score=0.2) for site in TRAINED]
        )
    )
    row = headline(found).rows["a"]
    assert (row[CENTRE].score, row[ARM].score) == (0.2, None)


def test_the_portrait_is_the_median_gain_and_not_the_best(tmp_path: Path) -> None:
    found = section(read(tmp_path), *LATER, *TRAINED).portrait
    assert found is not None
    assert (found.site, found.names) == ("y", ("image", "truth", "fedavg", ARM))
    assert (
        found.says
        == "y: of the 3 hospitals that joined later it is the one with the median gain (+0.100)."
    )


def test_of_two_in_the_middle_the_lower_gain_is_shown(tmp_path: Path) -> None:
    results = read(tmp_path)
    found = choose_portrait(
        results, "fedavg", dict.fromkeys("xy", ("image", "truth", "fedavg", ARM))
    )
    assert found is not None
    assert found.site == "y"
    assert "of the 2 hospitals that joined later and have pictures" in found.says
    assert choose_portrait(results, "fedavg", {"x": ("image", "fedavg", ARM)}) is None, (
        "the reference is missing"
    )


def test_pictures_lead_the_page_or_else_dots(tmp_path: Path) -> None:
    run = write_refinement_run(tmp_path)
    without = Page(write_report(run))
    assert without.source.index('r="6.5"') < without.source.index("headline refined")
    draw_pictures(run, *LATER)
    found = Page(write_report(run))
    leading = [attrs["alt"] for tag, attrs in found.tags if tag == "img"][:4]
    assert leading == ["y: T2 image", "y: reference", "y: FedAvg", "y: Refinement"]
    assert found.source.index("<img") < found.source.index("headline refined")
    assert 'r="6.5"' not in found.source, "no dots beside pictures"
    assert without.source.count('r="6.5"') == 6 + 1, (
        "a refined model for each hospital, and the key"
    )


def test_who_is_like_whom(tmp_path: Path) -> None:
    (_, later), (_, trained) = section(read(tmp_path)).likenesses
    x, y, z = later
    assert (x.made, x.nearest, x.distance) == ("62 % a, 30 % b, 8 % c", "a", "near (0.40)")
    assert x.since == "90 % a, 10 % b", "c left after x had its model"
    assert (y.made, y.distance, y.since) == ("100 % b", "far (1.50)", "")
    assert (z.made, z.distance, z.reason) == ("equal shares of a, b and c", FAR_AWAY, FAR_AWAY)
    assert [(each.site, each.made) for each in trained] == [
        ("a", "equal shares of a, b and c"),
        ("b", "60 % b, 40 % a"),
    ]
    assert trained[0].nearest == "b", "x is nearer, but has no vector"


def test_a_model_that_nobody_was_told_of_is_as_run_json_has_it(tmp_path: Path) -> None:
    (_, later), _ = section(read(tmp_path, happened=[])).likenesses
    assert [each.made for each in later] == ["90 % a, 10 % b", "100 % b", "equal shares of a and b"]
    assert [each.distance for each in later] == ["near (0.40)", "far (1.50)", FAR_AWAY]


def test_a_distance_that_nobody_knows_has_no_number(tmp_path: Path) -> None:
    drawn = section(read(tmp_path)).heat
    assert drawn is not None
    assert {field.text for field in drawn.fields if field.words.startswith("y and z")} == {"?"}


def test_what_happened_is_as_computed_by_hand(tmp_path: Path) -> None:
    rows = page(tmp_path).rows
    first = next(number for number, row in enumerate(rows) if row[0] == "After")
    assert rows[first + 1 : first + 6] == [
        [
            "20 s",
            "x",
            "joined with a description of 5 images",
            "0.50 s",
            "42 kB",
            "0",
            "300 B",
            "1",
        ],
        ["30 s", "y", "joined with a description of 1 image", "0.50 s", "42 kB", "0", "300 B", "1"],
        [
            "40 s",
            "z",
            "joined with a description of 7 images",
            "0.50 s",
            "42 kB",
            "0",
            "300 B",
            "1",
        ],
        [
            "50 s",
            "b",
            "changed: handed in a contribution from 6 training cases",
            "2.2 s",
            "81 kB",
            "0",
            "200 B",
            "3in 0.02 s",
        ],
        ["1 min", "c", "left", DASH, "0", "0", "300 B", "3in 0.05 s"],
    ]


def test_that_nobody_noticed_is_said_only_if_it_is_so(tmp_path: Path) -> None:
    assert (
        "Nobody else sent or received a byte for it at any of these 5 occasions."
        in section(read(tmp_path)).happened
    )
    noisy = [event for event in events() if (event["kind"], event.get("site")) != ("traffic", "y")]
    noisy.append(
        moved(
            31, "y", "join", {"query.describe": 10}, a={"query.refined": 1234, "query.collect": 5}
        )
    )
    found = section(read(tmp_path, happened=noisy))
    assert "Nobody else" not in found.happened
    assert (
        "When y joined with a description of 1 image, others sent or received too: a 1.23 kB."
        in found.happened
    )
    traffic = found.occasions[1].traffic
    assert traffic is not None
    assert (traffic.own, traffic.others, traffic.regular) == (10, {"a": 1234}, 205)


def test_an_occasion_that_is_not_over_has_dashes(tmp_path: Path) -> None:
    started = [
        at(0, "arm_start"),
        *join(20, "x", 5, {"a": 1.0})[:2],
        at(21, "failed", phase="describe", site="y", reason="no images"),
    ]
    found = section(read(tmp_path, happened=started))
    assert [(each.site, each.seconds, each.traffic) for each in found.occasions] == [
        ("x", None, None),
        ("y", None, None),
    ]
    assert found.happened == ""
    assert "could not describe itself: no images" in Page(write_report(tmp_path)).text


def test_without_occasions_the_page_says_so(tmp_path: Path) -> None:
    assert (
        "Nobody came, changed or left after the recipe had been chosen."
        in page(tmp_path, happened=[]).text
    )


def test_how_the_recipe_was_chosen(tmp_path: Path) -> None:
    found = page(tmp_path)
    first = found.rows.index(["", "Recipe", "Mean Dice"])
    assert found.rows[first + 1] == [
        "1",
        "softmax by average image, sharpness 0.2taken for hospitals that join later",
        "0.610",
    ]
    assert [row[0] for row in found.rows[first + 2 : first + 8]] == [
        "2",
        "3",
        "4",
        "5",
        "6",
        "8",
    ], "the uniform mean is always shown"
    assert "1 more that was tried" in found.text
    assert "Hospitals that joined later had no say." in found.text
    assert "(Dice 0.610), +0.110 beside the same share of everybody." in found.text


def test_names_and_texts_of_hospitals_are_only_text(tmp_path: Path) -> None:
    hostile = {**hospitals(), HOSTILE: {"modality": HOSTILE, "describes": True}}
    run = record()
    run["sites"].append(HOSTILE)
    for row in run["distances"]:
        row.append(1.0)
    run["distances"].append([1.0] * 6)
    run["choice"]["left_out"][1]["recipe"] = HOSTILE
    told = [
        *events(),
        *join(
            70,
            HOSTILE,
            3,
            {HOSTILE: 0.7, "a": 0.3},
            nearest=HOSTILE,
            distance=0.2,
            fallback=HOSTILE,
        ),
    ]
    found = page(tmp_path, hospitals=hostile, refinement=run, happened=told)
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "link", "iframe", "object"}
    assert "<script" not in found.source
    assert not any("onload" in attrs for _, attrs in found.tags)
    assert found.text.count(HOSTILE) >= 8
    policies = [
        attrs["content"] for tag, attrs in found.tags if tag == "meta" and "http-equiv" in attrs
    ]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "[red]" in text_of(terminal_refinement_table(read_results(tmp_path)))


def test_a_damaged_record_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the distances are not those of the sites"):
        read(tmp_path, refinement={**record(), "sites": ["a"]})
    with pytest.raises(RunError, match="'sites' is missing"):
        read(tmp_path, refinement={"recipe": "uniform mean"})


def test_newcomers_that_are_not_named_are_known_by_their_descriptions(tmp_path: Path) -> None:
    run = {key: value for key, value in record().items() if key != "newcomers"}
    assert read(tmp_path, refinement=run).later == LATER
    assert read(tmp_path, refinement={**run, "newcomers": ["z"]}).later == ("z", "x", "y"), (
        "in the order of joining"
    )


def test_the_terminal_shows_both_groups_within_100_columns(tmp_path: Path) -> None:
    results = read(
        tmp_path,
        hospitals={**hospitals(), "a-hospital-with-a-very-long-name-" * 5: {"describes": True}},
    )
    table = terminal_refinement_table(results)
    text = text_of(table)
    assert max(map(len, text.splitlines())) <= 100
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert f"x {DASH} 0.400 0.450 0.700 (+0.300) 0.750" in lines
    assert f"mean {DASH} 0.500 0.520 0.630 (+0.130) 0.700" in lines
    assert "mean 0.700 0.600 0.620 0.720 (+0.120) 0.750" in lines


def test_other_runs_have_no_refinement_table(tmp_path: Path) -> None:
    results = read(tmp_path, refinement=None)
    assert terminal_refinement_table(results) is None
    assert describe_refinement(results, (), {}) is None
    assert "Who is like whom" not in Page(write_report(tmp_path)).text
