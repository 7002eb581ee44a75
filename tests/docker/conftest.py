"""Both images, built once; without an engine these tests are skipped."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docker.engine import ROOT, docker


@pytest.fixture(scope="session")
def images() -> None:
    """Skip where no engine answers; otherwise the images are up to date."""
    if os.environ.get("POLYCLINIC_NO_DOCKER"):
        pytest.skip("POLYCLINIC_NO_DOCKER is set")
    if shutil.which("docker") is None or docker("info", check=False).returncode != 0:
        pytest.skip("no container engine answers here")
    if docker("compose", "version", check=False).returncode != 0:
        pytest.skip("docker compose is not installed")
    folder = os.environ.get("PIP_FIND_LINKS", "")
    if not (os.environ.get("TORCH_INDEX") or list(Path(folder or ".").glob("torch-*.whl"))):
        pytest.skip(
            "the images would be built with CUDA's gigabytes: PIP_FIND_LINKS=FOLDER or "
            "TORCH_INDEX=URL names torch for the CPU"
        )
    built = subprocess.run(
        ["make", "images"], cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False
    )
    assert built.returncode == 0, built.stderr[-4000:]
