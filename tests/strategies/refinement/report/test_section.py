from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from polyclinic.errors import RunError
from polyclinic.reporting.pictures import Picture
from polyclinic.reporting.results import Results, read_results
from polyclinic.reporting.scores import headline
from polyclinic.reporting.tables import terminal_tables
from polyclinic_server.reports.page import write_report
from polyclinic_server.reports.participation import find_participation
from polyclinic_strategies.refinement.report.narrative import Gain, tell_advice
from polyclinic_strategies.refinement.report.section import (
    Portrait,
    _rank,
    choose_portrait,
    describe,
    make_section,
)
from polyclinic_strategies.refinement.report.state import DecisionState, TriedRecipe, read_state
from polyclinic_strategies.refinement.report.table import BASELINES, find_baseline
from tests.pages import DASH, MINUS, Page, figures
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

HOSTILE = "<script>alert('x')</script>[red]\"onload=1"
PICTURED = ("image", "truth", "fedavg", CENTRE, ARM)


def read(folder: Path, tests: Any = None, **changes: Any) -> Results:
    metrics = None if tests is None else scored({**TESTS, **tests})
    return read_results(write_refinement_run(folder, metrics, **changes))


def shown(results: Results) -> dict[str, Any]:
    state = read_state(results)
    assert state is not None
    return describe(results, state)


def portrait(results: Results, *sites: str, names: tuple[str, ...] = PICTURED) -> Portrait | None:
    pictures = {site: [Picture("data:", name, None, name) for name in names] for site in sites}
    return choose_portrait(results, "fedavg", pictures)


def page(folder: Path, **changes: Any) -> Page:
    return Page(write_report(write_refinement_run(folder, **changes)))


def text_of(results: Results, width: int = 240) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        for table in terminal_tables(results):
            console.print(table)
    return captured.get()


def test_the_table_has_two_groups_with_means_computed_by_hand(tmp_path: Path) -> None:
    rows = page(tmp_path).rows
    first = next(place for place, row in enumerate(rows) if len(row) == 1)
    assert rows[first - 1] == [
        "Hospital",
        "alonelocal only",
        "averagingFedAvg",
        "mergingMerging (mean)",
        "refinedRefinement",
        "pooled",
    ]
    assert rows[first + 1 : first + 5] == [
        ["aT1 · 4 training images", "0.800", "0.700", "0.720", "0.820+0.120", "0.850"],
        ["bT1 · 4 training images", "0.700", "0.600", "0.620", "0.720+0.120", "0.750"],
        ["cT1 · 4 training images · left later", "0.600", "0.500", "0.520", "0.620+0.120", "0.650"],
        ["Mean", "0.700", "0.600", "0.620", "0.720+0.120", "0.750"],
    ]
    assert len(rows[first + 5]) == 1, "the heading of those that joined later"
    assert rows[first + 6 : first + 10] == [
        ["xT2", DASH, "0.400", "0.450", "0.700+0.300", "0.750"],
        ["yT2", DASH, "0.500", "0.500", "0.600+0.100", "0.700"],
        ["zT2", DASH, "0.600", "0.610", f"0.590{MINUS}0.010", "0.650"],
        ["Mean", DASH, "0.500", "0.520", "0.630+0.130", "0.700"],
    ]


def test_the_lead_and_what_puts_it_in_proportion(tmp_path: Path) -> None:
    found = shown(read(tmp_path))
    assert found["lead"].startswith("Three hospitals ")
    assert figures(found["lead"]) == ["0.630", "0.500"] and BASELINES["fedavg"] in found["lead"]
    support = found["support"]
    assert figures(support)[:3] == ["2", "3", f"{MINUS}0.010"] and f"z ({MINUS}0.010)" in support
    assert "0.110 above" in support and "(0.520)" in support, "the merged model"
    assert "0.070 below" in support and "(0.700)" in support, "pooled"
    assert "0.720" in support and "0.700 alone" in support and "0.600 with averaging" in support
    assert support.count(" z") == 2, "it did worse, and no hospital is near"


@pytest.mark.parametrize(
    ("scores", "said", "helped"),
    [
        ((0.3, 0.3, 0.3), ["0.300", "0.500"], "did not help"),
        ((0.5, 0.5, 0.502), ["0.501", "0.500"], "no clear difference"),
        ((0.5, 0.5, 0.53), ["0.510", "0.500"], ""),
    ],
)
def test_the_lead_is_honest(
    tmp_path: Path, scores: tuple[float, ...], said: list[str], helped: str
) -> None:
    lead = shown(read(tmp_path, {ARM: (0.9, 0.9, 0.9, *scores)}))["lead"]
    assert figures(lead) == said
    assert helped in lead
    assert bool(helped) == ("did not help" in lead or "no clear difference" in lead)


def test_without_scores_of_newcomers_the_page_is_about_the_others(tmp_path: Path) -> None:
    found = shown(read(tmp_path, {name: row[:3] + (None,) * 3 for name, row in TESTS.items()}))
    assert figures(found["lead"]) == ["0.720", "0.600"] and "later" not in found["lead"]
    assert "x, y and z" in found["support"]
    assert found["groups"][1].mean is None


def test_without_averaging_the_merged_model_is_what_it_is_compared_with(tmp_path: Path) -> None:
    results = read(tmp_path, {"fedavg": (None,) * 6})
    assert find_baseline(results) == CENTRE
    found = shown(results)
    assert figures(found["lead"]) == ["0.630", "0.520"] and BASELINES[CENTRE] in found["lead"]
    assert [head for head, _ in found["columns"]] == ["alone", "merging", "refined", "pooled"]


def test_a_score_of_zero_is_a_score(tmp_path: Path) -> None:
    found = shown(read(tmp_path, {"fedavg": (0.7, 0.6, 0.5, 0.0, 0.5, 0.6)}))
    assert found["groups"][1].rows[0].cells[3].difference == pytest.approx(0.7)


def test_newcomers_and_others_are_never_averaged_together(tmp_path: Path) -> None:
    results = read(tmp_path, {"local": (None,) * 6})
    assert headline(results).averaged == TRAINED, "not even where every hospital has every score"
    assert headline(results).mean[ARM].score == pytest.approx(0.72)
    means = [row for row in Page(write_report(results.folder)).rows if row[0].startswith("Mean of")]
    assert [row[1:] for row in means] == [
        ["CSF", DASH, "0.600", "0.620", "0.720", "0.750"],
        ["CSF", DASH, "0.500", "0.520", "0.630", "0.700"],
    ]


def test_what_was_measured_on_the_way_is_no_result(tmp_path: Path) -> None:
    results = read(tmp_path)
    assert [arm.name for arm in results.arms] == ["local", "fedavg", CENTRE, ARM, "pooled"]
    assert results.rounds == 2, "the ninth published model is no ninth round"
    (found,) = find_participation(results)
    assert found.title == "FedAvg"
    assert found.rows == dict.fromkeys(TRAINED, ("trained", "trained")), (
        "nobody expected newcomers in rounds"
    )


def test_scores_of_published_models_are_not_those_of_refined_ones(tmp_path: Path) -> None:
    lines = [metric(ARM, site, "validate", 9, score=0.2) for site in TRAINED]
    row = headline(read_results(write_refinement_run(tmp_path, lines))).rows["a"]
    assert (row[CENTRE].score, row[ARM].score) == (0.2, None)


def test_the_portrait_is_the_median_gain_and_not_the_best(tmp_path: Path) -> None:
    found = portrait(read(tmp_path), *LATER, *TRAINED)
    assert found is not None and found.site == "y"
    assert [picture.name for picture, _ in found.pictures] == ["image", "truth", "fedavg", ARM]
    assert figures(found.says) == ["3", "+0.100"]


def test_of_two_in_the_middle_the_lower_gain_is_shown(tmp_path: Path) -> None:
    results = read(tmp_path)
    found = portrait(results, "x", "y")
    assert found is not None and found.site == "y"
    assert figures(found.says) == ["2", "+0.100"] and "pictures" in found.says
    assert portrait(results, "x", names=("image", "fedavg", ARM)) is None, "no reference"


def test_pictures_lead_the_page_or_else_dots(tmp_path: Path) -> None:
    run = write_refinement_run(tmp_path)
    without = Page(write_report(run))
    dots = without.source.index('r="6.5"')
    assert without.source.index('class="lead"') < dots < without.source.index("headline refined")
    assert without.count("circle", r="6.5") == 6 + 1, "a refined model for each, and the key"
    draw_pictures(run, *LATER)
    found = Page(write_report(run))
    leading = [attrs["alt"] for tag, attrs in found.tags if tag == "img"][:4]
    assert leading == ["y: T2 image", "y: reference", "y: FedAvg", "y: Refinement"]
    assert found.source.index("<img") < found.source.index("headline refined")
    assert found.count("circle", r="6.5") == 0, "no dots beside pictures"
    assert found.is_inert()


def test_which_hospitals_are_alike(tmp_path: Path) -> None:
    (_, later), (_, trained) = shown(read(tmp_path))["likenesses"]
    x, y, z = later
    assert (x.made, x.nearest, x.distance) == ("62 % a, 30 % b, 8 % c", "a", "near (0.40)")
    assert x.since == "90 % a, 10 % b", "c left after x had its model"
    assert (y.made, y.distance, y.since) == ("100 % b", "far (1.50)", "")
    assert z.made.endswith("a, b and c") and (z.distance, z.reason) == (FAR_AWAY, FAR_AWAY)
    assert [each.site for each in trained] == ["a", "b"]
    assert trained[1].made == "60 % b, 40 % a"
    assert trained[0].nearest == "b", "x is nearer, but has no vector"


def test_a_model_that_no_event_tells_of_is_as_run_json_has_it(tmp_path: Path) -> None:
    (_, later), _ = shown(read(tmp_path, happened=[]))["likenesses"]
    assert [each.made for each in later[:2]] == ["90 % a, 10 % b", "100 % b"]
    assert later[2].made.endswith("a and b")
    assert [each.distance for each in later] == ["near (0.40)", "far (1.50)", FAR_AWAY]


def test_a_distance_that_is_not_known_has_no_number(tmp_path: Path) -> None:
    drawn = shown(read(tmp_path))["heat"]
    assert {field.text for field in drawn.fields if field.words.startswith("y and z")} == {"?"}


def test_what_happened_is_as_computed_by_hand(tmp_path: Path) -> None:
    found = page(tmp_path)
    first = next(number for number, row in enumerate(found.rows) if row[0] == "After")
    rows = [row[:2] + row[3:] for row in found.rows[first + 1 : first + 6]]
    assert rows == [
        ["20 s", "x", "0.50 s", "42 kB", "0", "300 B", "1"],
        ["30 s", "y", "0.50 s", "42 kB", "0", "300 B", "1"],
        ["40 s", "z", "0.50 s", "42 kB", "0", "300 B", "1"],
        ["50 s", "b", "2.2 s", "81 kB", "0", "200 B", "3in 0.02 s"],
        ["1 min", "c", DASH, "0", "0", "300 B", "3in 0.05 s"],
    ]
    what = [figures(row[2]) for row in found.rows[first + 1 : first + 6]]
    assert what == [["5"], ["1"], ["7"], ["6"], []], "images, images, images, training cases"
    assert "membership" in found.ids and found.count("a", href="#membership") == 1


def test_that_no_other_hospital_noticed_is_said_only_if_it_is_so(tmp_path: Path) -> None:
    quiet = shown(read(tmp_path))["happened"]
    assert figures(quiet)[0] == "5" and "2.2 s" in quiet and "c left" in quiet
    noisy = [event for event in events() if (event["kind"], event.get("site")) != ("traffic", "y")]
    others = {"a": {"query.refined": 1234, "query.collect": 5}}
    noisy.append(moved(31, "y", "join", {"query.describe": 10}, **others))
    found = shown(read(tmp_path, happened=noisy))
    first = found["happened"].split(". ")[0]
    assert "y joined" in first and "a 1.23 kB" in first
    assert quiet.split(". ")[0] not in found["happened"]
    moved_bytes = found["membership"][1].moved
    assert (moved_bytes.own, moved_bytes.others, moved_bytes.regular) == (10, {"a": 1234}, 205)


def test_what_is_not_over_has_dashes(tmp_path: Path) -> None:
    started = [
        at(0, "arm_start"),
        *join(20, "x", 5, {"a": 1.0})[:2],
        at(21, "failed", phase="describe", site="y", reason="no images"),
    ]
    found = shown(read(tmp_path, happened=started))
    assert [(each.site, each.seconds, each.moved) for each in found["membership"]] == [
        ("x", None, None),
        ("y", None, None),
    ]
    assert found["happened"] == ""
    drawn = Page(write_report(tmp_path))
    assert any(row[1:2] == ["y"] and "no images" in row[2] for row in drawn.rows)
    assert drawn.all(".happened") == []


def test_without_membership_events_there_is_no_table_of_them(tmp_path: Path) -> None:
    found = page(tmp_path, happened=[])
    assert "membership" in found.ids and found.all(".membership") == []


def test_how_the_recipe_was_chosen(tmp_path: Path) -> None:
    found = page(tmp_path)
    first = found.rows.index(["Rank", "Recipe", "Mean Dice"])
    place, recipe, mean = found.rows[first + 1]
    assert (place, mean) == ("1", "0.610")
    assert recipe.startswith("softmax by average image, sharpness 0.2")
    places = [row[0] for row in found.rows[first + 2 : first + 8]]
    assert places == ["2", "3", "4", "5", "6", "8"], "the uniform mean is always shown"
    assert figures(found.all("summary")[0]) == ["1"], "one more was tried"
    chosen = shown(read(tmp_path))["chosen"]
    assert "softmax by average image, sharpness 0.2" in chosen
    assert figures(chosen)[-2:] == ["0.610", "+0.110"]


def test_recipes_whose_scores_look_the_same_share_a_rank() -> None:
    means = (0.61, 0.6101, 0.5, None, None)
    tried = [TriedRecipe(recipe=str(mean), mean=mean) for mean in means]
    assert [each.place for each in _rank(tried, None)] == [1, 1, 3, 4, 4]
    assert [each.taken for each in _rank(tried, None)] == [True, False, False, False, False]
    decided = DecisionState(recipe="0.5", is_common=True)
    assert [each.taken for each in _rank(tried, decided)] == [False, False, True, False, False]


def decided(**more: Any) -> dict[str, Any]:
    run = record()
    taken = {"recipe": "uniform mean", "is_common": True, "gain": 0.01, "error": 0.02, **more}
    run["choice"] |= {"newcomers": taken, "contributors": taken}
    return run


def test_a_model_for_everybody_is_told_with_the_gain_that_was_too_small(tmp_path: Path) -> None:
    values = shown(read(tmp_path, refinement=decided()))
    assert "uniform mean" in values["chosen"]
    assert figures(values["chosen"]) == ["0.500", "+0.010", "0.020"]
    assert [each.trial.recipe for each in values["trials"] if each.taken] == ["uniform mean"]
    assert values["own_recipe"] == "uniform mean"


def test_who_keeps_the_model_for_everybody_is_named(tmp_path: Path) -> None:
    run = decided(recipe="softmax by histogram, sharpness 0.1", is_common=False, loses=["b"])
    values = shown(read(tmp_path, refinement=run))
    assert all(" b: " in values[told] for told in ("chosen", "own_chosen"))


@pytest.mark.parametrize(
    ("differences", "common", "advised"),
    [
        ([0.1, 0.2], False, False),
        ([0.1, -0.01], False, False),
        ([-0.1, 0.02], False, True),  # on the average
        ([0.3, -0.05], False, True),  # at one hospital
        ([0.0, 0.0], True, True),  # there was no reason for models of their own
    ],
)
def test_the_report_advises_averaging_where_its_figures_say_so(
    differences: list[float], common: bool, advised: bool
) -> None:
    gains = [Gain(f"h{n}", 0.5, 0.5 + each) for n, each in enumerate(differences)]
    taken = DecisionState(recipe="r", is_common=common)
    assert bool(tell_advice(gains, "averaging", [taken, taken])) == advised


def test_the_advice_stands_on_the_page_and_in_the_terminal(tmp_path: Path) -> None:
    found = page(tmp_path, refinement=decided())
    (advice,) = found.all(".advice")
    assert advice
    assert advice[:20] in text_of(read_results(tmp_path))


def test_names_and_texts_of_hospitals_are_only_text(tmp_path: Path) -> None:
    hostile = {**hospitals(), HOSTILE: {"modality": HOSTILE, "describes": True}}
    run = record()
    run["sites"].append(HOSTILE)
    for row in run["distances"]:
        row.append(1.0)
    run["distances"].append([1.0] * 6)
    run["choice"]["left_out"][1]["recipe"] = HOSTILE
    shares = {HOSTILE: 0.7, "a": 0.3}
    joined = join(70, HOSTILE, 3, shares, nearest=HOSTILE, distance=0.2, fallback=HOSTILE)
    found = page(tmp_path, hospitals=hostile, refinement=run, happened=[*events(), *joined])
    assert found.is_inert()
    assert found.text.count(HOSTILE) >= 8
    assert "[red]" in text_of(read_results(tmp_path))


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        ({**record(), "sites": ["a"]}, "the distances are not those of the sites"),
        ({"recipe": "uniform mean"}, "'refinement.statistic' is missing"),
        ({**record(), "coefficients": None}, "'refinement.coefficients'"),
        (["a"], "'refinement': an object was expected"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, damaged: Any, problem: str) -> None:
    with pytest.raises(RunError, match=problem):
        read(tmp_path, refinement=damaged)


def test_newcomers_that_are_not_named_are_known_by_their_descriptions(tmp_path: Path) -> None:
    run = {key: value for key, value in record().items() if key != "newcomers"}
    assert read(tmp_path, refinement=run).later == LATER
    in_order = read(tmp_path, refinement={**run, "newcomers": ["z"]})
    assert in_order.later == ("z", "x", "y"), "in the order of joining"
    assert [hospital.name for hospital in in_order.hospitals] == ["a", "b", "c", "z", "x", "y"]


def test_the_terminal_shows_both_groups_within_100_columns(tmp_path: Path) -> None:
    long = {**hospitals(), "a-hospital-with-a-very-long-name-" * 5: {"describes": True}}
    text = text_of(read(tmp_path, hospitals=long))
    assert max(map(len, text.splitlines())) <= 100
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert f"x {DASH} 0.400 0.450 0.700 (+0.300) 0.750" in lines
    assert f"mean {DASH} 0.500 0.520 0.630 (+0.130) 0.700" in lines
    assert "mean 0.700 0.600 0.620 0.720 (+0.120) 0.750" in lines


def test_a_run_of_an_early_version_names_no_kind_and_has_the_same_report(tmp_path: Path) -> None:
    early = read(tmp_path / "early")
    assert {arm.kind for arm in early.run.arms} == {""}
    kinds = {CENTRE: "refinement", ARM: "refinement"}
    arms = [
        {"name": arm.name, "title": arm.title, "kind": kinds.get(arm.name, "averaging")}
        for arm in early.run.arms
    ]
    now = read(tmp_path / "now", arms=arms)
    assert {arm.has_rounds for arm in now.arms if arm.name in kinds} == {False}
    pages = [write_report(results.folder).read_text() for results in (early, now)]
    assert pages[0] == pages[1]


def test_other_runs_have_no_such_section(tmp_path: Path) -> None:
    results = read(tmp_path, refinement=None)
    assert make_section(results) is None
    assert "membership" not in Page(write_report(tmp_path)).ids
