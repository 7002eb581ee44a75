"""Fixtures and settings of all tests.

Shapes and types are checked while tests run, in every module that declares them with jaxtyping.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests.shapes import shaped_modules

# before the first import of a module that declares shapes
install_import_hook(shaped_modules(), "beartype.beartype")

from polyclinic.config.targets import allow_targets  # noqa: E402
from polyclinic.system.nursery import NURSERY, nursery  # noqa: E402
from polyclinic_demos.federation import SLOW  # noqa: E402
from tests.plugins import Installer  # noqa: E402

# classes with which tests train, and which no file of conf/ names
allow_targets(
    "monai.transforms.ScaleIntensityd",
    "torch.nn.MSELoss",
    "torch.optim.Adam",
    "torch.optim.SGD",
)


TESTS = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the journals of connections without a state folder out of the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state-home")))
        yield


LONG = {  # files whose tests run whole federations, or train, for many seconds
    "client/dicom/test_pacs.py",
    "client/dicom/test_privacy.py",
    "client/page/test_page.py",
    "client/page/test_segmenting.py",
    "client/policy/test_imprint.py",
    "client/policy/test_thousand_runs.py",
    "benchmarks/test_attacks.py",
    "core/learning/bundles/test_write.py",
    "strategies/averaging/test_patients.py",
    "core/simulation/test_labels.py",
    "core/simulation/test_planned.py",
    "core/simulation/test_run.py",
    "core/store/test_ledger_durability.py",
    "demos/cohorts/test_hospitals.py",
    "demos/cohorts/test_scanner.py",
    "demos/cohorts/test_task_sources.py",
    "demos/cohorts/test_tasks.py",
    "demos/cohorts/test_visits.py",
    "docs/test_tutorials.py",
    "fuzz/test_readers.py",
    "packaging/test_wheel.py",
    "server/runs/test_app.py",
    "server/runs/test_export.py",
    "server/page/test_browser.py",
    "server/page/test_looks.py",
    "server/page/test_prometheus.py",
    "strategies/averaging/test_summing.py",
    "strategies/merging/test_batches.py",
    "strategies/merging/test_coordinator.py",
    "strategies/planning/test_coordinator.py",
    "strategies/proxy/attacks/test_attackers.py",
    "strategies/proxy/frame/test_canonical.py",
    "strategies/proxy/test_measurements.py",
    "strategies/proxy/test_train.py",
    "strategies/refinement/test_coordinator.py",
    "strategies/universal/test_coordinator.py",
    "strategies/universal/test_variants.py",
}
LONGEST = ("test_stock_flower", "test_proxy", "test_extension")  # files that begin first


@pytest.hookimpl(tryfirst=True)  # before markers choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is long; begin with what takes longest, so that no worker ends long after another.

    A file that is marked stays so as a whole, as its tests share what was trained.
    """
    for item in items:
        if item.path.relative_to(TESTS).as_posix() in LONG and not in_processes(item):
            item.add_marker("long")
    end = len(LONGEST)
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, end) if in_processes(item) else end)


def in_processes(item: pytest.Item) -> bool:
    """Tell whether a test starts real processes."""
    return item.get_closest_marker("e2e") is not None


@pytest.fixture
def installer(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installer]:
    """Install packages for the time of a test."""
    made = Installer(tmp_path_factory.mktemp("site-packages"), monkeypatch)
    yield made
    monkeypatch.undo()
    made.forget()


@pytest.fixture(scope="session")
def nursery_path() -> Iterator[str]:
    """Keep one nursery for all modules that ask for it."""
    with nursery(SLOW):
        yield os.environ.pop(NURSERY)


@pytest.fixture(scope="module")
def nursed(nursery_path: str) -> Iterator[None]:
    """Fork the processes of a module from a nursery: they start in no time."""
    os.environ[NURSERY] = nursery_path
    yield
    del os.environ[NURSERY]
