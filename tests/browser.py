"""Pages in a real Chromium, without a window; tests skip where there is none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("POLYCLINIC_CHROMIUM") or shutil.which("chromium")
AXE = os.environ.get("POLYCLINIC_AXE", "")  # axe.min.js of the npm package axe-core
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTHS = (400, 720, 1280, 2000)


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser; skip the test, with the reason, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no chromium: set POLYCLINIC_CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")  # playwright's loop must not outlive the module's tests
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


class Watched:
    """A tab that notes what no page of ours may do.

    Attributes:
        foreign: Requests to other hosts.
        complaints: Errors of scripts, and what the page's policy forbade.
    """

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.address = address.rstrip("/")
        self.context = browser.new_context(**options)
        self.tab = self.context.new_page()
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", self._note_request)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.tab.on("console", self._note_console)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:")):
            self.foreign.append(request.url)

    def _note_console(self, message: Any) -> None:
        if message.type == "error" and "net::ERR_" not in message.text:
            self.complaints.append(message.text)

    def open(self, path: str) -> Any:
        self.tab.goto(f"{self.address}{path}")
        self.tab.wait_for_load_state("load")
        return self.tab

    def overflows(self) -> int:
        return int(self.tab.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def findings(self) -> list[str]:
        """Run axe-core; return its serious findings."""
        if not AXE or not Path(AXE).is_file():
            pytest.skip("axe-core is not here: set POLYCLINIC_AXE to its axe.min.js")
        # through the driver, and not as a script of the page, which its policy would forbid
        self.tab.evaluate(Path(AXE).read_text(encoding="utf-8"))
        found = self.tab.evaluate("axe.run(document)")
        return [
            f"{each['id']}: {node['html'][:160]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]

    def close(self) -> None:
        self.context.close()
