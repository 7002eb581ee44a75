"""What somebody does on the page, and a round of a run that it shows."""

from typing import Any

from polyclinic.federation.events import Answered, Asked, RoundEnd
from tests.browser import Watched
from tests.server.page.served import Served


def a_round(number: int, loss: float, score: float) -> list[Any]:
    sites = ("lyon", "oslo", "porto")
    return [
        *(Asked(site=site, phase="train", round=number) for site in sites),
        *(Answered(site=site, phase="train", round=number, loss=loss) for site in sites),
        *(Answered(site=site, phase="evaluate", round=number, score=score) for site in sites),
        RoundEnd(round=number),
    ]


def sign_in(tab: Watched, page: Served) -> None:
    tab.open("/sign-in")
    tab.tab.fill("#token", page.token)
    tab.tab.click("#sign-in button")
    tab.tab.wait_for_url(page.address)


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
