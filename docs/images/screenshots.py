"""The screenshots of both pages, over what `make demo` left: `make screenshots` runs this.

    python docs/images/screenshots.py demo

The folder's newest run and one of its hospitals are shown; PNG files are written beside this file.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from polyclinic_client.page import show as hospital
from polyclinic_client.site.outbox import REFINED
from polyclinic_server.page.fleet import RunDeeds
from polyclinic_server.page.show import PageOptions, show_page

HERE = Path(__file__).parent
HOSPITAL = "t2w"  # the one that is shown
LONG_MS = 120_000
SIZE = {"width": 1100, "height": 800}
COLOURS = 96


@contextmanager
def tab(scheme: str) -> Iterator[Any]:
    """Yield a tab of the chromium that is installed."""
    chromium = os.environ.get("POLYCLINIC_CHROMIUM") or shutil.which("chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        yield browser.new_context(viewport=SIZE, color_scheme=scheme).new_page()
        browser.close()


def shoot(shown: Any, name: str) -> None:
    """Write a picture of what is shown, in few colours, so that it is small."""
    shown.wait_for_load_state("load")
    shown.wait_for_timeout(1500)  # reports and pictures
    path = HERE / f"{name}.png"
    picture = Image.open(BytesIO(shown.screenshot())).convert("RGB")
    picture.quantize(COLOURS).save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")


def main(folder: Path) -> None:
    """Write all of them."""
    run = Path((folder / "latest.txt").read_text().strip()).name
    state, data = folder / "state" / run / HOSPITAL, next((folder / "data").glob(f"*/{HOSPITAL}"))
    said: list[str] = []
    with (
        show_page(PageOptions("0"), folder / "runs", None, said.append, RunDeeds()),
        tab("light") as light,
    ):
        address = said[0].removeprefix("page: ")
        light.goto(f"{address}runs/{run}")
        shoot(light, "page-run")
    with (
        hospital.show_page("0", state, data, said.append),
        tab("dark") as dark,
    ):
        entrance = said[-1].removeprefix("page: ")
        address = entrance.partition("sign-in#")[0]
        dark.goto(entrance)
        dark.wait_for_url(address)
        dark.goto(f"{address}data")
        shoot(dark, "page-data")
        dark.goto(f"{address}sent")
        shoot(dark, "page-sent")
        dark.goto(f"{address}segment")
        dark.select_option("#model", REFINED)
        dark.click("form[data-deed=segment] button")
        dark.wait_for_selector("#results img >> nth=1", timeout=LONG_MS)
        shoot(dark, "page-segment")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
