"""A real Prometheus scrapes the page; skipped where there is none (Debian's package prometheus)."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from polyclinic.federation.events import Answered, ArmStart, Joined
from polyclinic.federation.run_folder import RunFolder
from polyclinic.system.processes import free_port
from polyclinic_demos.local_pki import local_authority
from polyclinic_server.page.fleet import Line
from tests.server.page.served import begin_run, record, served

PROMETHEUS = shutil.which("prometheus")
PATIENCE_S = 60.0
NAMES = ("oslo", 'a"b\\c\nd')  # a plain one, and one whose every sign must be escaped

pytestmark = pytest.mark.skipif(
    PROMETHEUS is None, reason="there is no prometheus: install Debian's package of that name"
)


class Lines:
    def hospitals(self) -> tuple[Line, ...]:
        return tuple(Line(name, online=True, since=100.0, heard=190.0) for name in NAMES)


@contextmanager
def prometheus(
    folder: Path, target: str, **options: object
) -> Iterator[Callable[[str], list[Any]]]:
    """Run one that scrapes an address every second; yield what asks it."""
    folder.mkdir()
    scraped = {"job_name": "polyclinic", "static_configs": [{"targets": [target]}], **options}
    settings = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scraped]}
    (folder / "prometheus.yml").write_text(json.dumps(settings))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(PROMETHEUS),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]

    def ask(query: str) -> list[Any]:
        try:
            told = requests.get(
                f"http://{address}/api/v1/query", {"query": query}, timeout=5
            ).json()
        except (requests.RequestException, ValueError):
            return []
        return list(told.get("data", {}).get("result", []))

    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield ask
        finally:
            process.terminate()
            process.wait(20)


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def value(found: list[Any]) -> float | None:
    return float(found[0]["value"][1]) if len(found) == 1 else None


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = begin_run(tmp_path / "runs", "spleen")
    record(
        folder,
        ArmStart(arm="fedavg", rounds=5),
        *(Joined(site=name) for name in NAMES),
        *(Answered(site=name, phase="train", round=1, loss=0.25, arm="fedavg") for name in NAMES),
    )
    return folder


def test_a_real_prometheus_scrapes_the_figures(tmp_path: Path, run: RunFolder) -> None:
    with (
        served(tmp_path / "runs", fleet=Lines()) as page,
        prometheus(tmp_path / "prometheus", page.address.split("/")[2]) as ask,
    ):
        until(lambda: value(ask("up")) == 1.0, "the page is scraped")
        until(lambda: len(ask("polyclinic_loss")) == len(NAMES), "losses")
        assert {float(each["value"][1]) for each in ask("polyclinic_loss")} == {0.25}
        assert {each["metric"]["run"] for each in ask("polyclinic_loss")} == {"spleen"}
        told = {each["metric"]["hospital"] for each in ask("polyclinic_hospital_online == 1")}
        assert told == set(NAMES)
        assert value(ask('polyclinic_runs{state="running"}')) == 1.0
        run.end(None)
        until(lambda: value(ask('polyclinic_runs{state="finished"}')) == 1.0, "the run's end")
        assert value(ask('polyclinic_runs{state="running"}')) == 0.0
        assert (value(ask("scrape_duration_seconds")) or 1.0) < 1.0


def test_with_tls_it_shows_the_token(tmp_path: Path, run: RunFolder) -> None:
    authority = local_authority(tmp_path / "security", 9092)
    with served(tmp_path / "runs", authority, address="0.0.0.0:0") as page:
        target = f"127.0.0.1:{page.address.rstrip('/').rpartition(':')[2]}"
        token = tmp_path / "token"
        token.write_text(page.token)
        secure = {
            "scheme": "https",
            "tls_config": {"ca_file": str(authority.folder / "ca.crt")},
        }
        with prometheus(tmp_path / "stranger", target, **secure) as ask:
            until(lambda: value(ask("up")) == 0.0, "without the token nothing is told")
        given = {"authorization": {"credentials_file": str(token)}}
        with prometheus(tmp_path / "ours", target, **secure, **given) as ask:
            until(lambda: value(ask("up")) == 1.0, "the page is scraped")
            until(lambda: len(ask("polyclinic_loss")) == len(NAMES), "losses")
