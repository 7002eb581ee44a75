"""Both images, built once; without an engine these tests are skipped."""

import os
import re
import shutil
import subprocess

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
    built = subprocess.run(
        ["make", "images"], cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False
    )
    if built.returncode != 0 and re.search(
        r"^#\d+ [\d.]+ torch for the CPU alone", built.stderr, re.MULTILINE
    ):
        pytest.skip(
            "the images cannot be built here: torch for the CPU is in no index "
            "(PIP_FIND_LINKS=FOLDER or TORCH_INDEX=URL)"
        )
    assert built.returncode == 0, built.stderr[-4000:]
