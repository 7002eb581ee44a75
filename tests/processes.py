"""Commands as a person runs them: processes with their output, forked where a nursery is kept."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from polyclinic.system.processes import python_module, start_process
from polyclinic_demos.federation import ONE_THREAD


def run_cli(
    module: str,
    *arguments: str,
    timeout_s: float = 240.0,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENT...` to its end, and return what it printed."""
    command = python_module(module, *arguments)
    environment = {**os.environ, **ONE_THREAD, "COLUMNS": "200", **(env or {})}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start_process(command, environment, (out.fileno(), err.fileno()), folder=folder)
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
