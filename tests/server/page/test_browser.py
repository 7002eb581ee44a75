"""The coordinator's page in a real Chromium: it grows, it is inert, and everybody can use it."""

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from polyclinic.federation.events import (
    Answered,
    ArmStart,
    Failed,
    Joined,
    Left,
    Note,
    Refused,
)
from polyclinic.federation.run_folder import RunFolder
from polyclinic.security.keys import make_key, public_text
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.reports.page import write_report
from tests.browser import Watched
from tests.server.page.acting import a_round, press_to, sign_in
from tests.server.page.served import Served, begin_run, record

HOSTILE = (
    "<script>window.taken=1</script>",
    '"><img src=x onerror="window.taken=1">',
    "</table><h1>owned</h1>{{ 7*7 }}",
    "' onmouseover=alert(1) x='",
    "javascript:alert(1)",
    "\u202egnp.exe\u0000\x1b[31m",
    "<svg/onload=window.taken=1>",
    "https://evil.example/steal?" + "a" * 300,
)
SOON_MS = 15_000
EARLIER = Path(__file__).parents[2] / "compatibility" / "v0.1.0" / "runs"


def test_what_happens_appears_without_a_reload(tab: Watched, run: RunFolder) -> None:
    shown = tab.open("/runs/spleen")
    dots = shown.locator("#charts circle").count()
    shown.evaluate("window.kept = 1")
    record(run, *a_round(2, 0.5, 0.7), Note(text="the second round is over"))
    shown.wait_for_selector("text=the second round is over", timeout=SOON_MS)
    assert shown.locator("#charts circle").count() == dots + 2
    assert "round 2 of 5" in shown.inner_text("#head")
    assert shown.evaluate("window.kept") == 1  # the page was not loaded again
    record(
        run,
        Failed(site="oslo", phase="train", round=3, reason="the disk is full"),
        Left(site="porto"),
        Refused(site="stale", reason="its kit is of another coordinator"),
    )
    shown.wait_for_selector("text=the disk is full", timeout=SOON_MS)
    assert "offline" in shown.inner_text("#sites")
    assert "its kit is of another coordinator" in shown.inner_text("#sites")


def test_how_a_run_ends_appears(tab: Watched, run: RunFolder) -> None:
    shown = tab.open("/")
    assert "1 run is going on" in shown.inner_text("h1")
    run.end(None)
    shown.wait_for_selector("h1:has-text('No run is going on')", timeout=SOON_MS)


@pytest.mark.parametrize("name", ["fedavg", "merging", "refinement"])
def test_a_report_is_shown_in_place(tab: Watched, page: Served, tmp_path: Path, name: str) -> None:
    path = shutil.copytree(EARLIER / name, tmp_path / "runs" / name)
    write_report(path)
    page.watch.look()
    frame = tab.open(f"/runs/{name}").frame_locator("iframe.report")
    colour = frame.locator("h1").evaluate("e => getComputedStyle(e).color")
    assert colour == "rgb(23, 33, 43)"  # its own style, which the policy names by its hash
    assert frame.locator("svg").count() > 0


def test_hostile_words_are_only_words(
    browser: Any, tmp_path: Path, run: RunFolder, page: Served
) -> None:
    for number, text in enumerate(HOSTILE):
        record(
            run,
            Joined(site=f"{text}{number}", modality=text, version=text, task=text),
            Failed(site=f"{text}{number}", phase="train", round=1, reason=text),
            Answered(site=f"{text}{number}", phase="evaluate", round=1, score=1e308),
            Refused(site=text, reason=text),
            Note(text=text),
        )
    hostile = begin_run(
        tmp_path / "runs",
        HOSTILE[1].replace("/", "_"),
        arms=[{"name": "fedavg", "title": HOSTILE[0]}],
        score_name=HOSTILE[1],
        reason=HOSTILE[2],
        versions={HOSTILE[0]: HOSTILE[1]},
    )
    record(hostile, Joined(site="a"), ArmStart(arm="fedavg", title=HOSTILE[0], rounds=2))
    record(hostile, Answered(site="a", phase="evaluate", round=1, score=0.5))
    figure = {"arm": "fedavg", "round": 1, "phase": "test", "site": HOSTILE[0], "score": 0.5}
    (hostile.path / "metrics.jsonl").write_text(json.dumps(figure) + "\n")
    (hostile.path / "config.yaml").write_text(json.dumps({HOSTILE[0]: HOSTILE[6]}))
    page.watch.look()
    watched = Watched(browser, page.address, viewport={"width": 400, "height": 800})
    for path in ("/", "/hospitals", "/runs/spleen"):
        shown = watched.open(path)
        shown.wait_for_timeout(200)
        assert shown.evaluate("window.taken") is None
        assert shown.locator("h1:has-text('owned')").count() == 0
        assert HOSTILE[0] in shown.inner_text("main")
        assert watched.overflows() <= 0
    watched.open("/").locator(".name").filter(has_text="onerror").click()
    watched.tab.wait_for_selector("#charts circle")
    assert watched.tab.evaluate("window.taken") is None
    assert HOSTILE[0] in watched.tab.inner_text("#charts")
    shown = watched.open(f"/compare?{urlencode([('run', 'spleen'), ('run', hostile.name)])}")
    shown.wait_for_timeout(200)
    assert shown.evaluate("window.taken") is None
    assert HOSTILE[0] in shown.inner_text("#compared")
    assert HOSTILE[6] in shown.inner_text("#compared")
    assert watched.overflows() <= 0
    watched.close()
    assert watched.foreign == []
    assert watched.complaints == []


def test_a_hospital_is_enrolled_and_revoked(tab: Watched, page: Served, tmp_path: Path) -> None:
    key = make_key(tmp_path / "hospital")
    shown = tab.open("/keys")
    assert not shown.is_visible("form[data-deed=enrol]")
    sign_in(tab, page)
    shown = tab.open("/keys")
    shown.fill("#name", "st-mary")
    shown.fill("#key", public_text(key))
    shown.click("form[data-deed=enrol] button")
    shown.wait_for_selector("output.good")
    with shown.expect_download() as kit:
        shown.click("text=Download the kit")
    assert '"site": "st-mary"' in Path(kit.value.path()).read_text()
    shown = tab.open("/keys")
    shown.select_option("#site", "st-mary")
    shown.fill("#reason", "lost laptop")
    shown.click("form[data-deed=revoke] button")
    shown.wait_for_selector("td:has-text('lost laptop')", timeout=SOON_MS)


def test_a_wrong_token_changes_nothing(
    browser: Any, page: Served, stopped: list[str], tmp_path: Path
) -> None:
    watched = Watched(browser, page.address)
    watched.open("/sign-in")
    watched.tab.fill("#token", "wrong")
    watched.tab.click("#sign-in button")
    watched.tab.wait_for_selector("output.bad")
    watched.tab.evaluate("sessionStorage.setItem('polyclinic-token', 'wrong')")
    watched.open("/runs/spleen").click("text=Stop this run")
    watched.tab.wait_for_selector("output.bad", state="attached")
    watched.close()
    assert stopped == []
    registry = Registry(tmp_path / "security")
    found = registry.refusals(0)[1]
    registry.close()
    assert any("wrong token" in sentence for sentence in found)


def test_a_run_is_stopped_with_the_keyboard_alone(
    tab: Watched, page: Served, stopped: list[str]
) -> None:
    shown = tab.open("/sign-in")
    press_to(shown, "token")
    shown.keyboard.type(page.token)
    shown.keyboard.press("Enter")
    shown.wait_for_url(page.address)
    press_to(shown, "spleen")
    shown.keyboard.press("Enter")
    shown.wait_for_url("**/runs/spleen")
    press_to(shown, "Stop this run")
    shown.keyboard.press("Enter")
    shown.wait_for_selector("output.good")
    assert stopped == ["spleen"]
