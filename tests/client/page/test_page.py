"""The hospital's page: the token for everything, decisions, the data check, and a real browser."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from polyclinic.errors import ConfigError
from polyclinic_client.page.show import LOG, show_page
from polyclinic_client.policy.asked import Asked
from polyclinic_client.policy.decisions import decision_on, note_asked
from polyclinic_client.sent.journal import FILE, Journal, Leaving
from tests.browser import Watched, browser
from tests.client.page.hospital import make_data, make_state

__all__ = ["browser"]  # the fixture
HOSTILE = '<img src=x onerror="window.taken=1">'
SOON_MS = 15_000


@dataclass
class Hospital:
    state: Path
    digest: str
    address: str
    token: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"{self.address}{path}", timeout=60, **options)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def hospital(tmp_path: Path, data: Path) -> Iterator[Hospital]:
    state = tmp_path / "state"
    digest = make_state(state)
    said: list[str] = []
    with show_page("0", state, data, said.append):
        address, _, token = said[0].removeprefix("page: ").partition("sign-in#")
        yield Hospital(state, digest, address, token)


@pytest.fixture
def tab(browser: Any, hospital: Hospital) -> Iterator[Watched]:
    watched = Watched(browser, hospital.address)
    watched.open(f"/sign-in#{hospital.token}").wait_for_url(hospital.address)
    yield watched
    watched.close()
    assert watched.foreign == []
    assert watched.complaints == []


def test_nothing_is_shown_without_the_token(hospital: Hospital) -> None:
    paths = (
        "",
        "sent",
        "data",
        "models",
        "changes",
        "pictures/0/image.png",
        "pictures/0/truth.png",
    )
    for path in paths:
        assert hospital.get(path).status_code == 401
        assert hospital.get(path, cookies={"x": "y"}).status_code == 401
    assert hospital.get("sent", headers=hospital.bearer).status_code == 200


def test_no_other_machine_is_served(tmp_path: Path) -> None:
    for address in ("0.0.0.0:0", "192.0.2.1:8080", ":::1"):
        with pytest.raises(ConfigError), show_page(address, tmp_path, None, print):
            pass


def test_a_wrong_token_is_written_down(hospital: Hospital) -> None:
    answer = requests.post(
        f"{hospital.address}deeds/decide",
        json={"digest": hospital.digest, "decision": "approve"},
        headers={"authorization": "Bearer wrong"},
        timeout=5,
    )
    assert answer.status_code == 401
    assert decision_on(hospital.state, hospital.digest) is None
    assert "page-wrong-token" in (hospital.state / LOG).read_text()


def test_what_is_no_decision_decides_nothing(hospital: Hospital) -> None:
    for body in ({"digest": "x"}, {"digest": "0" * 64, "decision": "approve"}, {}):
        answer = requests.post(
            f"{hospital.address}deeds/decide", json=body, headers=hospital.bearer, timeout=5
        )
        assert answer.status_code == 409
    assert decision_on(hospital.state, hospital.digest) is None


def test_pictures_are_drawn_of_the_first_cases_alone(hospital: Hospital) -> None:
    image = hospital.get("pictures/0/image.png", headers=hospital.bearer)
    truth = hospital.get("pictures/0/truth.png", headers=hospital.bearer)
    assert image.content.startswith(b"\x89PNG")
    assert truth.content.startswith(b"\x89PNG")
    assert truth.content != image.content
    for path in ("pictures/99/image.png", "pictures/0/secret.png", "pictures/0/..%2fx.png"):
        assert hospital.get(path, headers=hospital.bearer).status_code == 404


def test_a_run_is_approved_and_what_leaves_appears(tab: Watched, hospital: Hospital) -> None:
    shown = tab.tab
    assert "1 approval waiting" in shown.inner_text("#asked")
    shown.fill("#asked input[name=reason]", "the committee met")
    shown.click("#asked button")
    shown.wait_for_selector("h2:has-text('No approval waiting')", timeout=SOON_MS)
    decision = decision_on(hospital.state, hospital.digest)
    assert decision is not None
    assert decision.approved
    shown = tab.open("/sent")
    Journal(hospital.state / FILE).append(Leaving("figures", 77, "3" * 64, run="brain-2026"))
    shown.wait_for_selector("td:has-text('figures')", timeout=SOON_MS)


def test_the_data_check_is_made_and_shown(tab: Watched) -> None:
    shown = tab.open("/data")
    shown.wait_for_function(
        "[...document.images].every(each => each.complete && each.naturalWidth > 0)"
    )
    shown.click("form[data-deed=check] button")
    shown.wait_for_selector("text=cases are sound", timeout=SOON_MS)
    assert "refined.safetensors" in tab.open("/models").inner_text("#models")


def test_hostile_words_of_a_coordinator_are_only_words(tab: Watched, hospital: Hospital) -> None:
    note_asked(
        hospital.state,
        Asked(run=HOSTILE, method=HOSTILE, names={"model": "unet"}, protections=(HOSTILE,)),
    )
    Journal(hospital.state / FILE).append(
        Leaving("figures", 1, "4" * 64, run=HOSTILE, strategy=HOSTILE)
    )
    for path in ("/", "/sent"):
        shown = tab.open(path)
        shown.wait_for_function(
            "text => document.querySelector('main').textContent.includes(text)", arg=HOSTILE
        )
        assert shown.evaluate("window.taken") is None


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1280, "dark"), (2000, "light")])
def test_every_width_and_both_schemes(
    browser: Any, hospital: Hospital, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 900}
    watched = Watched(browser, hospital.address, viewport=size, color_scheme=scheme)
    found: list[str] = []
    try:
        watched.open(f"/sign-in#{hospital.token}").wait_for_url(hospital.address)
        for path in ("/", "/sent", "/data", "/models", "/segment"):
            watched.open(path)
            assert watched.overflows() <= 0, path
            found += [f"{path} {each}" for each in watched.findings()]
    finally:
        watched.close()
    assert found == []
