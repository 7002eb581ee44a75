"""Commands as a person runs them: processes with their output, forked where a nursery is kept."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from polyclinic.system.nursery import Forked, fork_module

ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
NURSED = (  # what the processes of a federation import
    "polyclinic_client.cli.main",
    "polyclinic_client.fleet.app",
    "polyclinic_client.fleet.join",
    "polyclinic.learning.gallery",
    "polyclinic_server.runs.coordinator",
    "monai.networks.nets",
    "torch._dynamo",
)


def run_cli(
    module: str,
    *arguments: str,
    timeout_s: float = 240.0,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENT...` to its end, and return what it printed."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, **ENVIRONMENT, "COLUMNS": "200", **(env or {})}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process: Forked | subprocess.Popen[bytes] = fork_module(
            command, environment, (out.fileno(), err.fileno()), folder=folder
        ) or subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=folder
        )
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, 9)
            process.wait(10.0)
            raise
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(command, status, *said)
