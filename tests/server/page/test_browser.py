"""The coordinator's page in a real Chromium: it grows, it is inert, and everybody can use it."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polyclinic.federation.events import (
    Answered,
    ArmStart,
    Asked,
    Failed,
    Joined,
    Left,
    Note,
    Refused,
    RoundEnd,
)
from polyclinic.federation.run_folder import RunFolder
from polyclinic.security.keys import make_key, public_text
from polyclinic_demos.local_pki import local_authority
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.page.fleet import RunDeeds
from polyclinic_server.reports.page import write_report
from tests.browser import WIDTHS, Watched, browser
from tests.server.page.served import Served, begin_run, record, served

__all__ = ["browser"]  # the fixture
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
AUDITED = (400, 1280)  # widths at which axe-core looks
EARLIER = Path(__file__).parents[2] / "compatibility" / "v0.1.0" / "runs"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = begin_run(tmp_path / "runs", "spleen")
    record(
        folder,
        *(Joined(site=site, modality="CT", training=20) for site in ("lyon", "oslo", "porto")),
        ArmStart(arm="fedavg", title="FedAvg", rounds=5),
        *a_round(1, 0.9, 0.4),
    )
    return folder


def a_round(number: int, loss: float, score: float) -> list[Any]:
    sites = ("lyon", "oslo", "porto")
    return [
        *(Asked(site=site, phase="train", round=number) for site in sites),
        *(Answered(site=site, phase="train", round=number, loss=loss) for site in sites),
        *(Answered(site=site, phase="evaluate", round=number, score=score) for site in sites),
        RoundEnd(round=number),
    ]


@pytest.fixture
def stopped() -> list[str]:
    return []


@pytest.fixture
def page(tmp_path: Path, run: RunFolder, stopped: list[str]) -> Iterator[Served]:
    authority = local_authority(tmp_path / "security", 9092)
    with served(tmp_path / "runs", authority, RunDeeds(stopped.append)) as one:
        yield one


@pytest.fixture
def tab(browser: Any, page: Served) -> Iterator[Watched]:
    watched = Watched(browser, page.address)
    yield watched
    watched.close()
    assert watched.foreign == []
    assert watched.complaints == []


def sign_in(tab: Watched, page: Served) -> None:
    tab.open("/sign-in")
    tab.tab.fill("#token", page.token)
    tab.tab.click("#sign-in button")
    tab.tab.wait_for_url(page.address)


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
    (hostile.path / "config.yaml").write_text("\n".join(HOSTILE))
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


def press_to(shown: Any, what: str) -> None:
    """Press Tab until the element of this name or text has the focus, which must be visible."""
    shown.evaluate("document.activeElement.blur()")
    for _ in range(60):
        shown.keyboard.press("Tab")
        found = shown.evaluate(
            "(e => [e.id, e.textContent.trim(), getComputedStyle(e).outlineStyle])"
            "(document.activeElement)"
        )
        if what in found[:2]:
            assert found[2] != "none"
            return
    raise AssertionError(f"{what} is not reached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_and_both_schemes(
    browser: Any, page: Served, scheme: str, width: int, run: RunFolder
) -> None:
    record(run, Failed(site="oslo", phase="train", round=2, reason="the disk is full"))
    page.watch.look()
    watched = Watched(
        browser, page.address, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    found: list[str] = []
    audited = width in AUDITED
    try:
        sign_in(watched, page)
        for path in ("/", "/hospitals", "/keys", "/runs/spleen", "/sign-in", "/nowhere"):
            shown = watched.open(path)
            assert watched.overflows() <= 0, path
            paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
            light = sum(map(int, re.findall(r"\d+", paper)[:3])) > 3 * 128
            assert light == (scheme == "light")
            if audited:
                found += [f"{path} {each}" for each in watched.findings()]
    finally:
        watched.close()
    assert found == []
