"""Real images: a small made-up collection, and the real one if it is there."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module", params=["made up", "real"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the images; the module's `write_source` makes some up."""
    if request.param == "real":
        if not os.environ.get("POLYCLINIC_DATA"):
            pytest.skip("POLYCLINIC_DATA is unset: no real images here")
        return Path(os.environ["POLYCLINIC_DATA"]).resolve()
    root = tmp_path_factory.mktemp("data")
    request.module.write_source(root)
    return root


@pytest.fixture
def found(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the images be found."""
    monkeypatch.setenv("POLYCLINIC_DATA", str(data))
