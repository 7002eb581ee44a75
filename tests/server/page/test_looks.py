"""How the pages look at every width, in both schemes, and runs side by side in a real Chromium."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from polyclinic.federation.events import Failed
from polyclinic.federation.run_folder import RunFolder
from tests.browser import WIDTHS, Watched
from tests.server.page.acting import a_round, press_to, sign_in
from tests.server.page.served import Served, record

AUDITED = (400, 1280)  # widths at which axe-core looks
EARLIER = Path(__file__).parents[2] / "compatibility" / "v0.1.0" / "runs"
PATHS = (
    "/",
    "/hospitals",
    "/keys",
    "/runs/spleen",
    "/runs/refinement",
    "/compare",
    "/compare?run=fedavg&run=refinement&run=spleen",
    "/sign-in",
    "/nowhere",
)


def test_runs_are_compared_with_the_keyboard_alone(
    tab: Watched, page: Served, run: RunFolder, tmp_path: Path
) -> None:
    shutil.copytree(EARLIER / "refinement", tmp_path / "runs" / "refinement")
    page.watch.look()
    shown = tab.open("/compare")
    shown.focus(".choice ul")
    for _ in range(2):
        shown.keyboard.press("Tab")
        shown.keyboard.press("Space")
    press_to(shown, "compare-them")
    shown.keyboard.press("Enter")
    shown.wait_for_url("**/compare?run=*")
    assert shown.locator("#compared svg[role=img]").count() == 2
    assert "Refinement" in shown.inner_text("#compared")
    assert shown.locator("input:checked").count() == 2
    shown.evaluate("window.kept = 1")
    lines = shown.locator("#compared polyline").count()
    record(run, *a_round(2, 0.5, 0.7))
    shown.wait_for_function(
        "() => document.querySelector('#compared').textContent.includes('round 2: 0.5')"
    )
    assert shown.locator("#compared polyline").count() == lines
    assert shown.evaluate("window.kept") == 1


def test_distances_between_hospitals_are_drawn(tab: Watched, page: Served, tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "refinement", tmp_path / "runs" / "refinement")
    page.watch.look()
    shown = tab.open("/runs/refinement")
    assert shown.locator("#distances rect").count() == 9
    assert "st-john" in shown.inner_text("#distances")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_and_both_schemes(
    browser: Any, page: Served, scheme: str, width: int, run: RunFolder, tmp_path: Path
) -> None:
    for name in ("fedavg", "refinement"):
        shutil.copytree(EARLIER / name, tmp_path / "runs" / name)
    record(run, Failed(site="oslo", phase="train", round=2, reason="the disk is full"))
    page.watch.look()
    watched = Watched(
        browser, page.address, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    found: list[str] = []
    audited = width in AUDITED
    try:
        sign_in(watched, page)
        for path in PATHS:
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
