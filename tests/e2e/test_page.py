"""The page of a real run with real hospitals: they arrive, train, are killed, come back."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from polyclinic.errors import RunNotFound
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.page.run_processes import deeds_of_processes, resume, stop
from tests.browser import Watched, chromium
from tests.e2e.federation import Federation, kill
from tests.server.page.served import Served, served

pytestmark = pytest.mark.e2e
Make = Callable[..., Federation]
SOON_MS = 30_000  # within which everything must be visible


def page_of(one: Federation) -> tuple[str, str]:
    """Wait for the page's address, and return it with the token."""
    pattern = re.compile(r"sign in: (http://127\.0\.0\.1:\d+/)sign-in#([\w-]+)")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        log = one.coordinator.log
        if log.exists() and (found := pattern.search(log.read_text())):
            return found[1], found[2]
        time.sleep(0.1)
    raise AssertionError(one.coordinator.log.read_text())


def test_a_run_is_watched_and_stopped_on_its_page(federation: Make) -> None:
    one = federation(
        "strategy=averaging/fedavg",
        "rounds=400",
        "deployment.hospitals=2",
        "deployment.min_hospitals=1",
        "deployment.grace_s=1",
        "--page",
        "0",
    )
    stays, dies, late = one.sites
    with chromium() as browser:
        one.coordinator.start()
        address, token = page_of(one)
        watched = Watched(browser, address)
        shown = watched.open("/")
        assert "1 run is going on" in shown.inner_text("h1")
        one.join(stays)
        one.join(dies)
        shown.wait_for_selector(f"th:has-text('{stays}')", timeout=4 * SOON_MS)
        shown = watched.open("/runs/run")
        shown.wait_for_selector("#charts circle", timeout=4 * SOON_MS)
        dots = shown.locator("#charts circle").count()
        shown.wait_for_function(
            "n => document.querySelectorAll('#charts circle').length > n", arg=dots
        )
        watched.open("/hospitals")
        kill(one.hospitals[dies].pid)
        gone = f"tr:has-text('{dies}'):has-text('down since')"
        shown.wait_for_selector(gone, timeout=SOON_MS)
        one.join(dies)
        back = f"tr:has-text('{dies}'):has-text('up since')"
        shown.wait_for_selector(back, timeout=4 * SOON_MS)
        one.enrol(late)
        Registry(one.authority.folder).revoke(late, "stale kit")
        one.join(late)
        shown = watched.open("/runs/run")
        shown.wait_for_selector("#events >> text=revoked", timeout=4 * SOON_MS)
        assert requests.get(f"{address}metrics", timeout=5).text.count("_online{") == 2
        watched.open(f"/sign-in#{token}").wait_for_url(address)
        shown = watched.open("/runs/run")
        shown.click("text=Stop this run")
        assert one.wait() != 0
        assert one.describe()["state"] == "interrupted"
        watched.close()
        assert watched.foreign == []
        assert watched.complaints == []
    resume_and_stop(one)


def test_only_what_lies_in_the_folder_of_runs_can_be_named(tmp_path: Path) -> None:
    for deed in (resume, stop):
        with pytest.raises(RunNotFound):
            deed(tmp_path, "../other")


def resume_and_stop(one: Federation) -> None:
    with served(one.runs, run_deeds=deeds_of_processes(one.runs)) as page:
        ask(page, "resume")
        wait_for(one, "waiting", "running")
        ask(page, "stop")
        wait_for(one, "interrupted")


def ask(page: Served, deed: str) -> None:
    answer = requests.post(
        f"{page.address}deeds/{deed}", json={"run": "run"}, headers=page.bearer, timeout=10
    )
    assert answer.status_code == 200, answer.text


def wait_for(one: Federation, *states: str) -> None:
    deadline = time.monotonic() + 120
    while one.describe()["state"] not in states:
        assert time.monotonic() < deadline, one.describe()
        time.sleep(0.1)
