"""Who may read the page, and who may act."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import requests

from polyclinic.errors import ConfigError
from polyclinic.security.keys import make_key, public_text
from polyclinic_demos.local_pki import local_authority
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.page.deeds import JOURNAL
from polyclinic_server.page.fleet import RunDeeds
from polyclinic_server.page.show import renew_token
from tests.server.page.served import Served, begin_run, served

JSON = {"content-type": "application/json"}


@pytest.fixture
def stopped() -> list[str]:
    return []


@pytest.fixture
def page(tmp_path: Path, stopped: list[str]) -> Iterator[Served]:
    begin_run(tmp_path, "spleen")
    with served(tmp_path, run_deeds=RunDeeds(stopped.append)) as one:
        yield one


def stop(page: Served, headers: dict[str, str], body: str = '{"run": "spleen"}') -> int:
    given = {**JSON, **headers}
    return requests.post(
        f"{page.address}deeds/stop", body, headers=given, timeout=5, allow_redirects=False
    ).status_code


def journal(folder: Path) -> list[str]:
    registry = Registry(folder)
    try:
        return registry.refusals(0)[1]
    finally:
        registry.close()


def test_with_the_token_a_run_is_stopped(page: Served, stopped: list[str]) -> None:
    assert stop(page, page.bearer) == 200
    assert stopped == ["spleen"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "without its token"),
        ({"authorization": "Bearer wrong"}, 401, "wrong token"),
        ({"authorization": "Basic abc"}, 401, "without its token"),
        ({"origin": "http://evil.example"}, 403, "somebody else"),
        ({"origin": "null"}, 403, "somebody else"),
        ({"sec-fetch-site": "cross-site"}, 403, "somebody else"),
        ({"sec-fetch-site": "same-site"}, 403, "somebody else"),
        ({"content-type": "text/plain"}, 403, "somebody else"),
        ({"content-type": "application/x-www-form-urlencoded"}, 403, "somebody else"),
        ({"host": "evil.example"}, 421, "name that is not its own"),
        ({"host": "127.0.0.1"}, 421, "name that is not its own"),
    ],
)
def test_others_are_refused_and_written_down(
    page: Served,
    stopped: list[str],
    tmp_path: Path,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    with_token = {} if "authorization" in headers or not headers else page.bearer
    assert stop(page, {**with_token, **headers}) == status
    assert stopped == []
    assert any(code in sentence for sentence in journal(tmp_path / JOURNAL))


def test_a_page_of_another_name_cannot_even_read(page: Served) -> None:
    answer = requests.get(page.address, headers={"host": "rebound.example:80"}, timeout=5)
    assert answer.status_code == 421
    assert "spleen" not in answer.text


def test_every_answer_has_the_policy(page: Served) -> None:
    for path in ("", "runs/spleen", "runs/none", "static/page.js", "metrics", "sign-in"):
        answer = requests.get(f"{page.address}{path}", timeout=5)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("body", ["", "[]", "{", '{"run": 3}', "[" * 50_000, '{"run": "other"}'])
def test_a_body_that_is_none_changes_nothing(page: Served, stopped: list[str], body: str) -> None:
    assert stop(page, page.bearer, body) in (400, 409)
    assert stopped == []


def test_a_large_body_is_refused(page: Served) -> None:
    assert stop(page, page.bearer, '{"run": "' + "x" * 100_000 + '"}') == 413


def test_names_cannot_leave_the_folder(page: Served) -> None:
    for path in ("runs/..%2f..%2fetc/report", "kits/..%2fca.kit.json", "static/..%2fgate.py"):
        assert requests.get(f"{page.address}{path}", timeout=5).status_code == 404


def test_only_the_hash_of_a_token_is_kept(tmp_path: Path) -> None:
    begin_run(tmp_path, "spleen")
    token = renew_token(tmp_path, None)
    kept = list((tmp_path / JOURNAL).glob("page.token"))
    assert len(kept) == 1
    assert token not in kept[0].read_text()
    assert kept[0].stat().st_mode & 0o077 == 0
    stopped: list[str] = []
    with served(tmp_path, run_deeds=RunDeeds(stopped.append)) as page:
        assert page.token == ""  # it is not printed again
        assert stop(page, {"authorization": f"Bearer {token}"}) == 200
        assert stop(page, {"authorization": f"Bearer {token}x"}) == 401


def test_a_page_that_is_open_does_not_hold_the_end_up(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begin_run(tmp_path, "spleen")
    with served(tmp_path) as page:
        stream = requests.get(f"{page.address}changes", stream=True, timeout=5)
        assert next(stream.iter_lines()).startswith(b"event: change")
    stream.close()
    assert capfd.readouterr().err == ""


def test_other_machines_need_tls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TLS"), served(tmp_path, address="0.0.0.0:0"):
        pass


def test_elsewhere_it_speaks_tls_and_reading_needs_the_token(tmp_path: Path) -> None:
    authority = local_authority(tmp_path / "security", 9092)
    begin_run(tmp_path / "runs", "spleen")
    with (
        served(tmp_path / "runs", authority, address="0.0.0.0:0") as page,
        requests.Session() as session,
    ):
        port = page.address.rstrip("/").rpartition(":")[2]
        url = f"https://127.0.0.1:{port}/"
        trust = str(authority.folder / "ca.crt")
        session.verify, session.trust_env = trust, False
        assert session.get(url, timeout=5, allow_redirects=False).status_code == 401
        for path in ("changes", "metrics", "runs/spleen", "kits/a.kit.json"):
            assert session.get(f"{url}{path}", timeout=5).status_code == 401
        assert session.get(f"{url}sign-in", timeout=5).status_code == 200
        assert session.post(f"{url}session", "{}", headers=JSON, timeout=5).status_code == 401
        let_in = session.post(f"{url}session", "{}", headers={**JSON, **page.bearer}, timeout=5)
        cookie = let_in.headers["set-cookie"]
        assert all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=strict", "__Host-"))
        assert "spleen" in session.get(url, timeout=5).text
        # the cookie reads, and does nothing
        answer = session.post(f"{url}deeds/stop", '{"run": "spleen"}', headers=JSON, timeout=5)
        assert answer.status_code == 401


def test_enrol_kit_and_revoke(tmp_path: Path) -> None:
    authority = local_authority(tmp_path / "security", 9092)
    key = make_key(tmp_path / "hospital")
    begin_run(tmp_path / "runs", "spleen")
    with served(tmp_path / "runs", authority) as page:

        def ask(deed: str, **body: str) -> requests.Response:
            return requests.post(
                f"{page.address}deeds/{deed}", json=body, headers=page.bearer, timeout=10
            )

        assert ask("enrol", name="st-mary", key="nonsense").status_code == 409
        assert ask("enrol", name="../x", key=public_text(key)).status_code == 409
        answer = ask("enrol", name="st-mary", key=public_text(key))
        assert answer.status_code == 200, answer.text
        kit = requests.get(f"{page.address}{answer.json()['kit'][1:]}", timeout=5)
        assert kit.json()["site"] == "st-mary"
        assert kit.headers["content-disposition"].startswith("attachment")
        assert "st-mary" in requests.get(f"{page.address}keys", timeout=5).text
        assert ask("revoke", name="st-mary", reason="").status_code == 409
        assert ask("revoke", name="st-mary", reason="lost").status_code == 200
        assert ask("revoke", name="st-mary", reason="lost").status_code == 409
    registry = Registry(authority.folder)
    found = [enrolled for enrolled in registry.everybody() if enrolled.site == "st-mary"]
    registry.close()
    assert [enrolled.reason for enrolled in found] == ["lost"]


def test_a_run_is_started_where_a_service_can(tmp_path: Path) -> None:
    started: list[tuple[list[str], str | None]] = []

    def start(settings: Sequence[str], name: str | None) -> str:
        if "rounds=no" in settings:
            raise ConfigError("rounds=no: write a whole number.")
        started.append((list(settings), name))
        return name or "now"

    with served(tmp_path / "runs", run_deeds=RunDeeds(start=start)) as page:

        def ask(settings: str, name: str = "") -> tuple[int, dict[str, str]]:
            body = {"settings": settings, "name": name}
            answer = requests.post(
                f"{page.address}deeds/start", json=body, headers=page.bearer, timeout=20
            )
            return answer.status_code, answer.json()

        assert ask("rounds=2 'data.labels=[a, b]'", "first") == (
            200,
            {"said": "Run first has started."},
        )
        assert ask("rounds=no")[1]["error"] == "rounds=no: write a whole number."
        assert "not closed" in ask("rounds='2")[1]["error"]
        assert "settings" in ask("")[1]["error"]
        assert started == [(["rounds=2", "data.labels=[a, b]"], "first")]
        nobody = requests.post(f"{page.address}deeds/start", json={"settings": "a=1"}, timeout=20)
        assert nobody.status_code == 401
        assert "Start a run" in requests.get(page.address, timeout=20).text
    with served(tmp_path / "runs") as page:
        assert "Start a run" not in requests.get(page.address, timeout=20).text
