"""A run that goes on, the page about it, and a tab of a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polyclinic.federation.events import ArmStart, Joined
from polyclinic.federation.run_folder import RunFolder
from polyclinic_demos.local_pki import local_authority
from polyclinic_server.page.fleet import RunDeeds
from tests.browser import Watched, browser
from tests.server.page.acting import a_round
from tests.server.page.served import Served, begin_run, record, served

__all__ = ["browser"]  # the fixture


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
