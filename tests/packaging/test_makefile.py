"""`make install` with interpreters that fit or do not, and with or without uv."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.layout import ROOT

TOOLS = ("sh", "sed", "git", "touch", "mkdir", "ls", "cksum", "cut", "cat", "chmod")
# an environment as `python -m venv` and `uv venv` make it: its Python notes what it is asked for
ENVIRONMENT = """mkdir -p "$last/bin"
printf '#!/bin/sh\\necho "$@" >>%s\\n' "$LOG" >"$last/bin/python"
chmod +x "$last/bin/python"
"""


class Machine:
    """A path with few programs, and stand-ins for interpreters and uv that note their calls."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.log, self.venv = folder / "bin", folder / "log", folder / "venv"
        self.bin.mkdir()
        self.log.touch()
        for name in TOOLS:
            found = shutil.which(name)
            assert found, name
            (self.bin / name).symlink_to(found)
        # `make` looks for these: none of this machine's own interpreters is on the path
        for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
            self.add(name, "exit 1")

    def add(self, name: str, script: str) -> None:
        """Put a program on the path."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\nfor last; do :; done\n{script}\n")
        path.chmod(0o755)

    def add_python(self, name: str) -> None:
        """Put an interpreter on the path whose version fits."""
        self.add(name, f'[ "$1" = -c ] && exit 0\necho "{name} $*" >>"$LOG"\n{ENVIRONMENT}')

    def install(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `make install` with this path alone."""
        make = shutil.which("make")
        assert make
        return subprocess.run(
            [make, "install", f"VENV={self.venv}", *arguments],
            cwd=ROOT,
            env={"PATH": str(self.bin), "LOG": str(self.log), "HOME": os.environ["HOME"]},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_first_interpreter_that_fits_is_taken(machine: Machine) -> None:
    machine.add_python("python3.13")
    machine.add_python("python3")
    assert machine.install().returncode == 0
    made, *installed = machine.calls()
    assert made == f"python3.13 -m venv {machine.venv}"
    assert installed[-1].endswith("-e .[dev]")


def test_uv_makes_the_environment_where_no_interpreter_fits(machine: Machine) -> None:
    machine.add("uv", f'echo "uv $*" >>"$LOG"\n{ENVIRONMENT}')
    assert machine.install().returncode == 0
    made, *installed = machine.calls()
    assert made.startswith("uv venv") and "--python 3.11" in made
    assert installed[-1].endswith("-e .[dev]")


def test_without_either_it_says_what_to_install(machine: Machine) -> None:
    done = machine.install()
    assert done.returncode != 0 and machine.calls() == []
    (said,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert "3.11" in said and "3.14" in said and "uv" in said


def test_an_interpreter_that_was_named_and_does_not_fit_is_refused(machine: Machine) -> None:
    machine.add_python("python3.11")
    done = machine.install("PYTHON=python3.12")
    assert done.returncode != 0 and machine.calls() == []
    assert "PYTHON=python3.12" in done.stderr
