import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from polyclinic.errors import RunError
from polyclinic.reporting.chart import MOST_POINTS
from polyclinic_strategies.proxy.report.charts import draw_curve, draw_losses
from polyclinic_strategies.proxy.report.fields import LARGEST
from polyclinic_strategies.proxy.report.interpretation import tell_limits, tell_meaning
from polyclinic_strategies.proxy.report.narrative import (
    find_gaps,
    find_targets,
    find_tiles,
    tell_best,
    tell_price,
    tell_result,
)
from polyclinic_strategies.proxy.report.page import compare_attackers, tint, write_proxy_report
from polyclinic_strategies.proxy.report.state import (
    ProxyState,
    highest,
    read_proxy,
    strongest,
)
from polyclinic_strategies.proxy.report.tables import proxy_tables
from tests.pages import DASH, MINUS, Page, figures
from tests.strategies.proxy.proxy_run import (
    AUCS,
    FIRST,
    SECOND,
    THIRD,
    THROUGH,
    attackers,
    complete,
    learned,
    write_proxy_run,
)

SPACE = "\N{NO-BREAK SPACE}"
HOSTILE = "<script>alert('x')</script>[red]\"onload=1"


def page(folder: Path, **changes: Any) -> Page:
    return Page(write_proxy_report(write_proxy_run(folder, **changes)))


def read(folder: Path, **changes: Any) -> ProxyState:
    return read_proxy(write_proxy_run(folder, **changes))


def reached(*aucs: float) -> dict[str, Any]:
    return attackers({**AUCS["learned"], FIRST: aucs})


def texts(folder: Path, width: int = 240) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        for table in proxy_tables(folder):
            console.print(table)
    return captured.get()


def verdicts(folder: Path, **changes: Any) -> Mapping[str, str]:
    return {target.what: target.verdict for target in find_targets(read(folder, **changes))}


def test_means_and_maxima_computed_by_hand(tmp_path: Path) -> None:
    arm = read(tmp_path).warp("learned")
    assert arm is not None
    top, best = strongest(arm.attacks), highest(arm.attacks)
    assert top is not None and top.name == FIRST and top.auc == pytest.approx(0.64)
    assert best is not None and best[0].name == THIRD and best[1].auc == 0.68, (
        "the maximum is another attacker's"
    )


def test_the_table_of_attackers_has_all_that_was_asked(tmp_path: Path) -> None:
    found = page(tmp_path)
    row = next(row for row in found.rows if row[0].startswith(THIRD))
    share = f"found 12{SPACE}% · first 25{SPACE}%"
    assert row[1:] == [
        f"0.700highest 0.700 · 0.62{DASH}0.78{share}",
        f"0.690highest 0.700 · 0.62{DASH}0.78{share}",
        f"0.630highest 0.680 · 0.60{DASH}0.76{share}",
    ]
    assert (
        next(row for row in found.rows if row[0].startswith("Strongest"))[3]
        == f"0.640{FIRST}highest 0.680"
    )


def test_the_lead_and_what_puts_it_in_proportion(tmp_path: Path) -> None:
    run = read(tmp_path)
    assert figures(tell_result(run)) == ["3", "0.640", "0.680", "0.980", "0.5"]
    price = tell_price(run)
    assert figures(price) == [
        "0.840", "0.850", f"{MINUS}0.010", "0.640", "0.680", "4.1", "0.820", "0.840", "4.0",
    ]  # fmt: skip
    values = [value for value, _ in find_tiles(run)]
    assert values == ["0.840", "0.64 / 0.68", "0.98 / 0.99", "4.1 mm", f"0{SPACE}%"]


def test_the_three_verdicts_on_what_a_proxy_hides(tmp_path: Path) -> None:
    arms = [None, reached(0.6, 0.701, 0.6), reached(0.97, 0.98, 0.96)]
    leads = [
        tell_result(read(tmp_path, **({"arms": learned(attackers=each)} if each else {})))
        for each in arms
    ]
    verdicts = [lead.partition(":")[0] for lead in leads]
    assert len(set(verdicts)) == 3
    assert ["not hide" in verdict for verdict in verdicts] == [False, False, True]
    assert ["less" in verdict for verdict in verdicts] == [False, True, False]


def test_a_board_is_told_in_cases_of_a_hundred(tmp_path: Path) -> None:
    journey, pairs, names, price = tell_meaning(read(tmp_path))
    assert "4.1 mm" in journey and "10.2 mm" in journey, "root mean square and largest"
    assert {"64", "98", "100", "50"} <= set(figures(pairs))
    assert figures(names) == ["32", f"25{SPACE}%", f"25{SPACE}%", f"3.1{SPACE}%"]
    assert figures(price) == ["0.010", "0.840", "0.850", "1"]


def test_what_it_does_not_mean_is_said_also_when_all_is_well(tmp_path: Path) -> None:
    risk, tests, *others = tell_limits(read(tmp_path))
    assert "not anonymization" in risk and figures(risk) == ["0.680"]
    assert figures(tests)[0] == "32" and f"0.60{DASH}0.76" in tests
    assert figures(tests)[-1] == "0.70", "with other people the limit may be exceeded"
    (kept,) = [text for text in others if "lesions: " in text]
    assert SECOND in kept and figures(kept) == ["0.925", "0.950"]
    assert "missed" not in " ".join([risk, tests, *others])


def test_one_restart_above_the_limit_is_a_missed_target(tmp_path: Path) -> None:
    found = page(tmp_path, arms=learned(attackers=reached(0.6, 0.701, 0.6)))
    (banner,) = found.all(".failed")
    assert "Re-identification" in banner and FIRST in banner and "0.701" in figures(banner)
    first = tell_limits(read_proxy(tmp_path))[0]
    assert "missed" in first and FIRST in first and figures(first) == ["0.701", "0.70"]
    assert found.all(".verdict").count("missed") == 1
    assert "MISSED: re-identification" in texts(tmp_path)


def test_all_targets_of_a_complete_run_are_met(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert found.all(".verdict") == ["met"] * 4
    assert found.all(".banner") == []


def test_a_proxy_that_hides_nothing(tmp_path: Path) -> None:
    hidden = tell_limits(read(tmp_path))[0]
    shown = tell_limits(read(tmp_path, arms=learned(attackers=reached(0.97, 0.98, 0.96))))
    assert "not reduced" in shown[1] and "not reduced" not in hidden


def test_an_attacker_that_could_not_be_told_from_guessing_proves_little(tmp_path: Path) -> None:
    guessing = tell_limits(read(tmp_path, arms=learned(attackers=attackers({FIRST: (0.55,)}))))[0]
    assert "does not prove" in guessing and figures(guessing) == []


def test_weak_attackers_are_called_weak(tmp_path: Path) -> None:
    originals, *others = complete()["arms"]
    weak = [{**originals, "attackers": attackers({FIRST: (0.8,)})}, *others]
    (said,) = set(tell_limits(read(tmp_path, arms=weak))) - set(tell_limits(read(tmp_path)))
    assert figures(said) == ["0.800"]
    untried = set(tell_limits(read(tmp_path, arms=others))) - set(tell_limits(read(tmp_path)))
    assert len(untried) == 1 and said not in untried


@pytest.mark.parametrize(
    ("changes", "what", "verdict"),
    [
        ({"dice": {**THROUGH, "mean": 0.82}}, "segmentation", "met"),
        ({"dice": {**THROUGH, "mean": 0.819}}, "segmentation", "missed"),
        ({"dice": None}, "segmentation", "not measured"),
        ({"attackers": reached(0.7)}, "re-identification", "met"),
        ({"attackers": None}, "re-identification", "not measured"),
        ({"attackers": reached(0.62, 0.85, 0.6)}, "gain over a random warp", "missed"),
        ({"strength_mm": 5.0}, "gain over a random warp", "not measured"),
        ({"folded": 0.0001}, "folding", "missed"),
        ({"smallest_jacobian": -0.1}, "folding", "missed"),
        ({"smallest_jacobian": None}, "folding", "met"),
        ({"folded": None}, "folding", "not measured"),
    ],
)
def test_every_target_is_met_missed_or_not_measured(
    tmp_path: Path, changes: dict[str, Any], what: str, verdict: str
) -> None:
    assert verdicts(tmp_path, arms=learned(**changes))[what] == verdict


def test_dice_by_class_with_the_difference_to_none(tmp_path: Path) -> None:
    rows = page(tmp_path).rows
    first = rows.index(["Class", "Without a proxy", "learned field"])
    assert rows[first + 1 : first + 5] == [
        ["CSF", "0.800", f"0.780{MINUS}0.020"],
        ["grey matter", "0.850", f"0.840{MINUS}0.010"],
        ["white matter", "0.900", "0.900±0.000"],
        ["mean", "0.850", f"0.840{MINUS}0.010"],
    ]


def test_the_curve_goes_from_weak_to_strong(tmp_path: Path) -> None:
    plot = draw_curve(read(tmp_path))
    assert plot is not None
    random = next(line for line in plot.lines if line.title == "random field")
    assert [dot.beside for dot in random.dots] == ["2.0 mm", "4.0 mm", "8.0 mm"]
    weak, middle, strong = random.dots
    assert weak.x > middle.x > strong.x, "a stronger warp is further to the left"
    assert weak.y < strong.y, "and further down"
    frame = plot.frame
    inside = [
        frame.left <= dot.x <= frame.right and frame.top <= dot.y <= frame.bottom
        for line in plot.lines
        for dot in line.dots
    ]
    assert all(inside) and len(inside) == 5


def test_every_loss_is_drawn_once_and_not_too_finely(tmp_path: Path) -> None:
    many = [{"step": step, "segmentation": 1 / (step + 1), "mine": 2.0} for step in range(5000)]
    plots = draw_losses(read(tmp_path, losses=many))
    assert [plot.title for plot in plots] == ["Segmentation", "mine"]
    for plot in plots:
        points = plot.lines[0].path.split()
        assert len(points) <= MOST_POINTS + 1 and points[-1].startswith(
            f"{plot.x_ticks[-1][0]:.0f}"[:2]
        )
    (alone,) = draw_losses(read(tmp_path, losses=many[:1]))[:1]
    assert alone.lines[0].dots, "a single value is a dot"


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert found.is_inert() and len(found.loads()) == 1


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    arms = [{**each, "title": HOSTILE} for each in complete()["arms"]]
    arms[0]["attackers"] = {HOSTILE: [{"auc": 0.9}]}
    lesions = [{"title": HOSTILE, "note": HOSTILE, "attackers": attackers({HOSTILE: (0.9,)})}]
    losses = [{"step": 1, HOSTILE: 1.0}, {"step": 2, HOSTILE: 2.0}]
    curve = [{"arm": HOSTILE, "round_trip": 0.9, "auc": 0.9}]
    pictures = [{"file": "pictures/a.png", "title": HOSTILE}]
    labels = {
        "labels": [HOSTILE],
        "direct": {"dice": {HOSTILE: 0.5}, "cases": 1},
        "people": {HOSTILE: 3},
        "reference": HOSTILE,
    }
    found = page(
        tmp_path,
        name=HOSTILE + "\x1b[2J",
        arms=arms,
        extra=lesions,
        losses=losses,
        curve=curve,
        pictures=pictures,
        version=HOSTILE,
        **labels,
    )
    assert found.is_inert()
    assert "\x1b" not in found.source and HOSTILE in found.text
    assert "[red]" in texts(tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "../../secret.png",
        "/etc/secret.png",
        "pictures/../../secret.png",
        "pictures/link.png",
        "no.png",
    ],
)
def test_a_picture_comes_from_its_folder_alone(tmp_path: Path, file: str) -> None:
    out = write_proxy_run(
        tmp_path / "a" / "out",
        pictures=[{"file": file, "title": "x"}, {"file": "pictures/fake.png", "title": "y"}],
    )
    secret = tmp_path / "secret.png"
    secret.write_bytes((out / "pictures" / "a.png").read_bytes())
    (out / "pictures" / "link.png").symlink_to(secret)
    (out / "pictures" / "fake.png").write_bytes(b"<svg onload=alert(1)>")
    found = Page(write_proxy_report(out))
    assert found.count("img") == 0 and "Pictures" in found.all("h2")


@pytest.mark.parametrize("value", [None, ...])
@pytest.mark.parametrize("field", list(complete()))
def test_a_run_that_stopped_early_has_a_page(tmp_path: Path, field: str, value: Any) -> None:
    assert page(tmp_path, **{field: value}).rows
    assert texts(tmp_path)


@pytest.mark.parametrize("field", list(complete()["arms"][2]))
def test_an_arm_that_was_not_finished_has_a_page(tmp_path: Path, field: str) -> None:
    assert page(tmp_path, arms=learned(**{field: None})).rows
    assert texts(tmp_path)


def test_a_run_that_has_only_begun_says_so(tmp_path: Path) -> None:
    found = page(tmp_path, **dict.fromkeys(set(complete()) - {"name"}, ...))
    gaps = find_gaps(read_proxy(tmp_path))
    assert len(gaps) == 10
    assert all(gap in found.one(".banner") for gap in gaps)
    assert figures(found.one(".lead")) == []
    assert found.all(".verdict") == ["not measured"] * 4
    assert proxy_tables(tmp_path) == []
    assert find_gaps(read(tmp_path)) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"arms": 3}',
        '{"arms": [3]}',
        '{"arms": [{"attackers": {"a": 7}}]}',
        '{"people": []}',
        '{"losses": {}}',
        '{"format": 2}',
        '{"direct": "x"}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_damaged_file_is_said_plainly(tmp_path: Path, text: str) -> None:
    (tmp_path / "proxy.json").write_text(text, encoding="latin-1")
    for make in (write_proxy_report, proxy_tables):
        with pytest.raises(RunError, match=r"proxy\.json: (cannot be read|is damaged) \("):
            make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["proxy.json"]


def test_a_folder_without_a_run_and_one_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"proxy\.json"):
        write_proxy_report(tmp_path)
    (write_proxy_run(tmp_path) / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html"):
        write_proxy_report(tmp_path)
    assert not list(tmp_path.glob(".report*"))


def test_numbers_that_no_drawing_can_show_are_left_out(tmp_path: Path) -> None:
    losses = [
        {"step": 1, "segmentation": 1e300},
        {"step": 2, "segmentation": -1e300},
        {"step": 3, "segmentation": float("nan")},
    ]
    out = write_proxy_run(
        tmp_path, losses=losses, date=LARGEST, arms=learned(strength_mm=float("inf"), folded=True)
    )
    found = Page(write_proxy_report(out))
    assert draw_losses(read_proxy(out)) == () and found.all(".small") == []
    assert "unknown" in found.one(".facts")


def test_the_terminal_tables_stay_within_100_columns(tmp_path: Path) -> None:
    arms = [{**each, "title": "a-very-long-title-" * 5} for each in complete()["arms"]]
    text = texts(
        write_proxy_run(
            tmp_path,
            arms=arms,
            labels=["background", "a-label-" * 30],
            direct={"dice": {"a-label-" * 30: 0.5}},
        )
    )
    assert max(map(len, text.splitlines())) <= 100
    short = texts(write_proxy_run(tmp_path))
    assert "0.640 (0.660)" in short and f"0.780 ({MINUS}0.020)" in short and "4.1 mm" in short


def test_attackers_that_were_not_tried_everywhere(tmp_path: Path) -> None:
    originals, random, last = read(tmp_path).warps
    rows = compare_attackers([originals.attacks[:1], random.attacks[1:2], last.attacks])
    assert [row.name for row in rows] == [FIRST, SECOND, THIRD]
    assert [[cell is not None for cell in row.cells] for row in rows] == [
        [True, False, True],
        [False, True, True],
        [False, False, True],
    ]
    only = [
        dict(
            each,
            attackers={FIRST: each["attackers"][FIRST]}
            if each["name"] == "random"
            else each["attackers"],
        )
        for each in complete()["arms"]
    ]
    assert "not tried" in page(tmp_path, arms=only).text


def test_the_darker_the_more_is_given_away() -> None:
    assert tint(0.4) == "rgba(213,94,0,0.00)" and tint(1.0) == "rgba(213,94,0,0.50)"


def test_the_strongest_attacker_in_half_a_sentence(tmp_path: Path) -> None:
    warp = read(tmp_path).warp("random")
    assert warp is not None
    assert FIRST in tell_best(warp.attacks) and figures(tell_best(warp.attacks)) == [
        "0.820",
        "0.840",
    ]
    assert tell_best(()) == ""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"people": []}, "'people': an object was expected"),
        ({"arms": [{"attackers": {"a": 7}}]}, "'arms.0.attackers': a list was expected"),
        ({"format": 2}, "'format'"),
    ],
)
def test_damage_is_named_by_its_place(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(RunError, match=problem):
        read(tmp_path, **changes)


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    out = write_proxy_run(tmp_path)
    (out / "report.html").write_text("old")
    assert write_proxy_report(out).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert {path.name for path in out.iterdir()} == {"proxy.json", "pictures", "report.html"}
    assert json.loads((out / "proxy.json").read_text())["format"] == 1
